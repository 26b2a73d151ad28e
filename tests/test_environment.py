"""Variables and files of configuration: what each means, and what a wrong one says."""

from pathlib import Path

import pytest

from downloader.environment import (
    Setting,
    check_hub_variables,
    read_environment,
    read_hub_token,
)
from downloader.errors import InputError


def test_empty_environment_has_the_defaults(tmp_path: Path) -> None:
    env = read_environment({"HOME": str(tmp_path)})
    assert env.hub_cache_dir == tmp_path / ".cache/huggingface/hub"
    assert env.auth_files == (
        tmp_path / ".config/containers/auth.json",
        tmp_path / ".docker/config.json",
    )
    assert env.login_file == tmp_path / ".docker/config.json"
    assert env.proxies.http is env.hub_offline is env.hub_endpoint is None
    assert not env.debug


@pytest.mark.parametrize(
    ("variables", "directory"),
    [
        ({"HF_HOME": "~/models"}, "models/hub"),
        ({"HF_HOME": "$HOME/models"}, "models/hub"),
        ({"HF_HOME": "${DATA}/models", "DATA": "/srv"}, "/srv/models/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HUB_CACHE": "/new", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"}, "/new"),
    ],
)
def test_cache_directory_as_huggingface_hub_finds_it(
    variables: dict[str, str], directory: str, tmp_path: Path
) -> None:
    env = read_environment({"HOME": str(tmp_path), **variables})
    assert env.hub_cache_dir == tmp_path / directory


def test_credentials_of_podman_are_read_before_those_of_docker(tmp_path: Path) -> None:
    env = read_environment(
        {
            "HOME": str(tmp_path),
            "REGISTRY_AUTH_FILE": "/etc/auth.json",
            "XDG_RUNTIME_DIR": "/run/user/1",
            "DOCKER_CONFIG": "/docker",
        }
    )
    assert [str(path) for path in env.auth_files] == [
        "/etc/auth.json",
        "/run/user/1/containers/auth.json",
        str(tmp_path / ".config/containers/auth.json"),
        "/docker/config.json",
    ]
    assert env.login_file == Path("/etc/auth.json")


def test_lower_case_proxy_wins_and_an_empty_one_switches_it_off() -> None:
    env = read_environment(
        {"http_proxy": "", "HTTP_PROXY": "http://a", "HTTPS_PROXY": " http://b "}
    )
    assert env.proxies.http is None
    assert env.proxies.https == Setting("HTTPS_PROXY", "http://b")
    assert env.proxies.https.value == "http://b"


def test_offline_variable_is_named() -> None:
    env = read_environment({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "yes"})
    assert env.hub_offline is not None
    assert env.hub_offline.name == "TRANSFORMERS_OFFLINE"


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfhf_ok\r\n", b"  hf_ok\n"])
def test_token_file_with_byte_order_mark_or_line_break(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(data)
    found = read_hub_token(read_environment({"HF_TOKEN_PATH": str(tmp_path / "token")}))
    assert found is not None
    assert found.value == "hf_ok"


def test_token_with_typographic_quotes_names_its_variable_and_not_itself() -> None:
    env = read_environment({"HF_TOKEN": "\u201chf_secret\u201d"})
    with pytest.raises(InputError, match="HF_TOKEN: want a token of ASCII") as caught:
        read_hub_token(env)
    assert "hf_secret" not in str(caught.value) + repr(env)


def test_given_empty_token_asks_without_one() -> None:
    assert read_hub_token(read_environment({"HF_TOKEN": "hf_x"}), Setting("--token", "")) is None


def test_token_is_not_sent_unasked_where_that_is_switched_off() -> None:
    env = read_environment({"HF_TOKEN": "hf_a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})
    assert read_hub_token(env) is None
    given = Setting("--token", "hf_b")
    assert read_hub_token(env, given) == given


def test_malformed_timeout_of_huggingface_hub_is_named() -> None:
    with pytest.raises(InputError, match="HF_HUB_ETAG_TIMEOUT: want whole seconds, got '10s'"):
        check_hub_variables(read_environment({"HF_HUB_ETAG_TIMEOUT": "10s"}))


def test_address_of_the_hub_with_white_space_is_named() -> None:
    with pytest.raises(InputError, match="HF_ENDPOINT: want an address without white space"):
        check_hub_variables(read_environment({"HF_ENDPOINT": "http://127.0.0.1:9 "}))
