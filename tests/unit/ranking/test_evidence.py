import pandas as pd

from milscope.ranking import RANKINGS, evidence


def test_it_is_the_evidence_column():
    assert RANKINGS["evidence"] is evidence
    assert evidence(pd.DataFrame({"attention": [0.25, 0.75], "evidence": [3.0, -3.0]})).tolist() == [3.0, -3.0]
