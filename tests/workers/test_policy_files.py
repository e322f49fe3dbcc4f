"""Policy files: YAML without its traps, and no file that crashes what reads it."""

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.errors import InvalidInputError
from workers.errors import UsageError
from workers.policies import build_policy, load_policy_file, read_policies


def test_a_file_maps_names_to_bodies(tmp_path: Path) -> None:
    """Words stay words and numbers are numbers, as one who reads the file would say."""
    path = tmp_path / "policies.yaml"
    path.write_text(
        "# weighed\n"
        "default: {kind: lagrangian, error_per_usd: 1e-3}\n"
        "careful:\n"
        "  kind: quality-floor\n"
        "  tolerance: .02\n"
        "  on: upper\n"
        "canary: {kind: weighted, weights: {no: 010, acme/large: 1}}\n"
    )

    assert load_policy_file(path) == {
        "default": {"kind": "lagrangian", "error_per_usd": 0.001},
        "careful": {"kind": "quality-floor", "tolerance": 0.02, "on": "upper"},
        "canary": {"kind": "weighted", "weights": {"no": 10, "acme/large": 1}},
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "declares no policy"),
        ("- a", "declares no policy"),
        ("a: 1", "policy a must be a mapping with a kind"),
        ("a b: {kind: fixed}", "'a b' cannot name a policy"),
        ("1: {kind: fixed}", "'1' cannot name a policy"),
        ("a: {kind: fixed, llm: x}\na: {kind: fixed, llm: y}", r"'a' stands twice \(line 2, column 1\)"),
        ("a: {kind: fixed, llm: x, llm: y}", "'llm' stands twice"),
        ("a: &x {kind: fixed, llm: x}\nb: *x", "aliases are not taken"),
        ("a: !!python/object:os.system {}", "tags are not taken"),
        ("a: {kind: fixed", r"is not YAML that can be read: .*line 1"),
        ("[" * 5000, "nested too deeply"),
        ('"\\UFFFFFFFF": 1', "is not YAML that can be read"),
        ("a: {kind: lagrangian, error_per_usd: " + "9" * 5000 + "}", "is not YAML that can be read"),
        ("? [a]\n: b", "is not YAML that can be read"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(text: str, sentence: str) -> None:
    """It names the file, the place and the fix."""
    with pytest.raises(UsageError, match=sentence):
        read_policies(text.encode(), source="p.yaml")


def test_a_body_that_declares_nothing_is_refused() -> None:
    """The error is the body's own."""
    with pytest.raises(InvalidInputError, match="policy a: unknown key 'lambda'; known: "):
        read_policies(b"a: {kind: lagrangian, lambda: 3}")


def test_a_file_that_is_missing_or_huge_is_refused(tmp_path: Path) -> None:
    """A folder, no file, and a mebibyte of blanks and one more."""
    path = tmp_path / "huge.yaml"
    path.write_bytes(b" " * (1 << 20) + b" ")

    with pytest.raises(UsageError, match="more than 1048576 bytes"):
        load_policy_file(path)
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        load_policy_file(tmp_path)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_policy_file(tmp_path / "none.yaml")


#: Pieces that YAML gives a meaning, in any order.
_PIECES = st.sampled_from(
    [
        "a",
        "b: ",
        "\n",
        "  ",
        "- ",
        "? ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&x ",
        "*x",
        "!!int ",
        "!!bool ",
        "! ",
        "<<: ",
        ">-\n",
        "'",
        '"',
        "\\",
        "\\U",
        "%YAML 1.1\n",
        "---\n",
        "...",
        "#",
        "\t",
        "~",
        ".inf",
        "kind: fixed",
        "kind: budget, usd: ",
        "llm: ",
        "-",
        "1e999",
        "2001-01-01",
        "\x00",
    ]
)


@given(
    raw=st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode(errors="replace"))
    | st.lists(_PIECES, max_size=14).map(lambda parts: "".join(parts).encode())
)
@settings(max_examples=600)
def test_no_file_crashes_the_loader(raw: bytes) -> None:
    """Any bytes give policies that can be built, or one of the two documented errors."""
    with suppress(UsageError, InvalidInputError):
        for name, body in read_policies(raw).items():
            build_policy(name, body)


_BODIES = st.fixed_dictionaries(
    {
        "kind": st.just("weighted"),
        "weights": st.dictionaries(
            st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.floats(0.1, 9), min_size=1
        ),
    }
)


@given(_BODIES)
@settings(max_examples=50)
def test_what_yaml_writes_is_read_back(body: dict[str, object]) -> None:
    """Names such as ``on`` and ``no``, and floats in any notation, survive."""
    assert read_policies(yaml.safe_dump({"p": body}).encode()) == {"p": body}
