import pandas as pd

from milscope.ranking import RANKINGS, attention


def test_it_is_the_attention_column():
    assert RANKINGS["attention"] is attention
    assert attention(pd.DataFrame({"attention": [0.25, 0.75], "evidence": [3.0, -3.0]})).tolist() == [0.25, 0.75]
