"""The forms of a repo id that people paste."""

import pytest

from downloader.errors import InputError
from downloader.hub.repo import Repo, RepoName, parse_repo_name

pytestmark = pytest.mark.portable

X, DATA, SPACE = Repo("model", "acme/x"), Repo("dataset", "acme/x"), Repo("space", "acme/x")
PAGE = "https://huggingface.co"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("acme/x", RepoName(X)),
        (" acme/x \n", RepoName(X)),
        ("acme/x/", RepoName(X)),
        ("gpt2", RepoName(Repo("model", "gpt2"))),
        ("datasets", RepoName(Repo("model", "datasets"))),
        ("datasets/acme/x", RepoName(DATA)),
        ("spaces/acme/x/", RepoName(SPACE)),
        ("models/acme/x", RepoName(X)),
        ("hf://acme/x", RepoName(X)),
        ("hf://datasets/acme/x/", RepoName(DATA)),
        ("hf://acme/x@v1.0", RepoName(X, "v1.0")),
        ("hf://acme/x@refs/pr/7/a/b.txt", RepoName(X, "refs/pr/7", "a/b.txt")),
        ("hf://acme/x@refs%2Fpr%2F7", RepoName(X, "refs/pr/7")),
        ("hf://acme/x/config.json", RepoName(X, None, "config.json")),
        ("hf://acme/x/onnx/", RepoName(X, None, "onnx/")),
        (f"{PAGE}/acme/x", RepoName(X)),
        (f"{PAGE}/acme/x/", RepoName(X)),
        (f"{PAGE}/acme/x.git", RepoName(X)),
        (f"{PAGE}/gpt2", RepoName(Repo("model", "gpt2"))),
        (f"{PAGE}/gpt2/tree/main", RepoName(Repo("model", "gpt2"), "main")),
        (f"{PAGE}/datasets/acme/x?row=1#files", RepoName(DATA)),
        (f"{PAGE}/acme/x/tree/v1", RepoName(X, "v1")),
        (f"{PAGE}/acme/x/tree/main/onnx", RepoName(X, "main", "onnx/")),
        (f"{PAGE}/acme/x/blob/main/a%20b/c.txt", RepoName(X, "main", "a b/c.txt")),
        (f"{PAGE}/acme/x/resolve/main/w.bin?download=true", RepoName(X, "main", "w.bin")),
        (f"{PAGE}/acme/x/tree/refs%2Fpr%2F1", RepoName(X, "refs/pr/1")),
        (f"{PAGE}/acme/x/commit/{'a' * 40}", RepoName(X, "a" * 40)),
        (f"{PAGE}/acme/x/discussions/3", RepoName(X)),
        ("https://hf-mirror.com/acme/x", RepoName(X)),
        ("http://www.huggingface.co/acme/x", RepoName(X)),
    ],
)
def test_pasted_name_is_parsed(text: str, want: RepoName) -> None:
    assert parse_repo_name(text) == want


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("acme/x@v1.0", "write the revision as: acme/x --revision v1.0"),
        ("acme/x:v1.0", "write the tag or revision as: acme/x --revision v1.0"),
        ("https://github.com/acme/x", "set HF_ENDPOINT, if that is a mirror of the Hub"),
        ("ftp://huggingface.co/acme/x", None),
        (f"{PAGE}/acme/x/y", None),
        (f"{PAGE}/", None),
        ("hf://", None),
        ("hf://acme/x@", None),
        ("acme/x/y", None),
        ("", None),
        ("acme/../x", None),
        ("acme//x", None),
        ("模型/x", None),
    ],
)
def test_malformed_repo_name_is_answered_with_a_hint(text: str, hint: str | None) -> None:
    with pytest.raises(InputError, match="want ") as caught:
        parse_repo_name(text)
    assert caught.value.hint == hint


def test_name_that_contradicts_the_flag() -> None:
    assert parse_repo_name("datasets/acme/x", "dataset").repo == DATA
    with pytest.raises(InputError, match="the name is of a dataset, but --repo-type says space"):
        parse_repo_name("hf://datasets/acme/x", "space")


def test_page_of_a_mirror_in_hf_endpoint() -> None:
    name = parse_repo_name("http://127.0.0.1:8080/acme/x", hosts={"127.0.0.1:8080"})
    assert name.repo == X
