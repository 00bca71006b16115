"""Modules of a user's own: found by whoever needs them, imported once, and what is wrong with one is said."""

import sys
from pathlib import Path

import pytest

from seqgan_rl.core import extensions, registry
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.extensions import VARIABLE, import_all, import_named_by_user, modules_behind
from seqgan_rl.core.registry import Registry, registered_elsewhere
from seqgan_rl.rewards import rewards

PARTS = """
from beside_parts import NAME
from seqgan_rl.rewards import rewards

@rewards.register(NAME, needs_discriminator=False)
def made(parts): ...
"""


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """What is imported or registered here stays here."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    monkeypatch.setattr(rewards, "_factories", rewards._factories.copy())
    monkeypatch.setattr(registry, "_elsewhere", registered_elsewhere())


def test_a_file_is_imported_once_with_what_stands_beside_it_and_found_again(tmp_path, monkeypatch):
    (tmp_path / "parts_here.py").write_text(PARTS)
    (tmp_path / "beside_parts.py").write_text("NAME = 'test_extensions_paid'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, " parts_here.py, ,json")
    import_named_by_user()
    module = sys.modules["parts_here"]
    import_all([str(tmp_path / "parts_here.py")])
    assert sys.modules["parts_here"] is module
    for settings in ({"reward": "test_extensions_paid"}, [{"a": "0.5*logit + test_extensions_paid"}]):
        assert modules_behind(settings) == (str(tmp_path / "parts_here.py"),)
    assert modules_behind({"reward": "test_extensions_paid_more"}) == ()


def test_the_library_and_what_no_settings_name_are_left_out():
    assert modules_behind({"algorithm": "ppo", "reward": "logit", "network": "small_cnn"}) == ()
    assert not [module for module in registered_elsewhere().values() if module.startswith("seqgan_rl")]


def test_who_registers_is_what_is_imported_be_it_the_main_program(monkeypatch):
    shapes: Registry = Registry("shape of test_extensions")
    exec("shapes.register('oval_main')(len)", {"shapes": shapes, "__name__": "__main__"})
    shapes.register("oval_here")(len)
    assert modules_behind("oval_here") == (__name__,)
    main = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(InputError, match=r"'oval_main' was registered in a notebook or at a prompt.*into a file"):
        modules_behind("oval_main")
    main.__file__ = "program.py"
    assert modules_behind("oval_main") == (str(Path("program.py").resolve()),)
    main.__spec__ = type(sys.__spec__)("package.program", None)
    assert modules_behind("oval_main") == ("package.program",)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere_at_all", "nowhere_at_all, a module that .* cannot be imported: ModuleNotFoundError: No module named"),
        ("nowhere.py", "cannot be imported: FileNotFoundError"),
        ("broken.py", "cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path, monkeypatch, name, words):
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # half of a module is not kept
        with pytest.raises(InputError, match=words) as caught:
            import_all([name])
        assert "\n" not in str(caught.value)
    assert extensions.VARIABLE in str(caught.value)
