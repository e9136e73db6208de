import subprocess
import sys


def after(lines: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", lines], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_milscope_does_not_import_torch() -> None:
    assert after("import milscope, milscope.store, sys; print('torch' in sys.modules)") == "False"


def test_a_verb_is_the_function_whoever_imported_its_module_before() -> None:
    assert after("import milscope.tile, milscope as ms; print(callable(ms.tile), ms.tile.__name__)") == "True tile"
    assert after("import milscope as ms; ms.run; print(all(callable(getattr(ms, name)) for name in ms.__all__))") == "True"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert after("import milscope\ntry: milscope.nothing\nexcept AttributeError as e: print(e)").endswith("'nothing'")
