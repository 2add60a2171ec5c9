"""The settings are read in one way, and a mistake in them is told, without telling a secret."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from availability.cli import main
from availability.settings import Settings, SettingsError, environment_of_child, load

DOCUMENTED = Path(__file__).parent.parent / "config" / "availability.toml"


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text)
    return file


def test_the_documented_file_lists_every_setting_with_its_default() -> None:
    listed = [line.partition(" = ")[0] for line in DOCUMENTED.read_text().splitlines() if " = " in line[:40]]
    assert sorted(listed) == sorted(Settings.__struct_fields__)
    assert load(DOCUMENTED, {}) == Settings()


def test_a_variable_goes_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "api_port = 1\nlow_stock = 7\n")
    settings = load(file, {"AVAILABILITY_API_PORT": "9000", "UNRELATED": "1"})
    assert (settings.api_port, settings.low_stock) == (9000, 7)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("low_stok = 5", "low_stok"),
        ('api_port = "8000"', "api_port"),
        ("api_port = 65536", "api_port"),
        ("shards = 0", "shards"),
        ('nats_stream_sync = "always\\n"', "nats_stream_sync"),
        ("api_port = ", "settings.toml"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        load(write(tmp_path, text), {})


def test_a_wrong_variable_is_refused_by_name() -> None:
    with pytest.raises(SettingsError) as refused:
        load(None, {"AVAILABILITY_LOW_STOK": "5", "AVAILABILITY_SHARDS": "many"})
    assert [problem.split()[0] for problem in refused.value.problems] == ["low_stok", "shards"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml"):
        load(tmp_path / "absent.toml", {})


def test_a_secret_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("redis://:hidden@ledger:6379/0\n")
    assert load(None, {"AVAILABILITY_REDIS_URL_FILE": str(secret)}).redis_url == "redis://:hidden@ledger:6379/0"


def test_a_secret_is_given_once(tmp_path: Path) -> None:
    variables = {"AVAILABILITY_REDIS_URL_FILE": "x", "AVAILABILITY_REDIS_URL": "redis://:hidden@ledger"}
    with pytest.raises(SettingsError) as refused:
        load(None, variables)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("redis_url", "hidden"),
        ("redis_url", "redis://:hidden@a,http://:hidden@b"),
        ("redis_standby_url", "valkey://:hidden@ledger"),
        ("redis_url", "redis://:hidden@ledger:six"),
        ("postgres_url", "mysql://u:hidden@h/d"),
        ("nats_url", "hidden:4222"),
    ],
)
def test_a_url_that_names_no_such_server_is_told(name: str, url: str) -> None:
    """P10: and so is the name of the setting, but not what it holds."""
    with pytest.raises(SettingsError, match=f"^{name}: it") as refused:
        load(None, {f"AVAILABILITY_{name.upper()}": url})
    assert "hidden" not in str(refused.value)


def test_a_url_may_name_several_hosts() -> None:
    urls = {"redis_url": "redis://a:1,redis://b:2", "postgres_url": "postgresql://a:1,b:2/d"}
    settings = load(None, {f"AVAILABILITY_{name.upper()}": url for name, url in urls.items()})
    assert {name: getattr(settings, name) for name in urls} == urls


def test_settings_show_no_secret() -> None:
    """P10."""
    settings = Settings(redis_url="redis://:hidden@ledger:6379/0", low_stock=7)
    assert repr(settings) == "Settings(low_stock=7, redis_url='***')"


def test_a_child_gets_the_same_settings() -> None:
    settings = Settings(redis_url="redis://:p@ledger:6379/0", api_port=0, low_stock=3)
    environment = environment_of_child(settings)
    assert load(None, environment) == settings
    assert environment["PATH"] == os.environ["PATH"]


TOKENS = "jwks_file or jwks_url, token_issuer"
NEEDED = {
    "serve": f"postgres_url, redis_url, {TOKENS}",
    "ingest": "nats_url, postgres_url, redis_url",
    "journal": "nats_url, postgres_url, redis_url",
    "keeper": "postgres_url, redis_url",
}


@pytest.mark.parametrize(("command", "names"), NEEDED.items())
def test_a_process_insists_on_what_it_needs(command: str, names: str) -> None:
    refused = CliRunner().invoke(main, [command])
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"not set: {names}; ")


@pytest.mark.parametrize("settings", [Settings(jwks_file="x"), Settings(jwks_url="https://x")])
def test_one_of_two_ways_to_the_keys_is_enough(settings: Settings) -> None:
    assert settings.missing(("jwks_file or jwks_url", "token_issuer")) == ["token_issuer"]


def test_up_insists_on_the_issuer_of_keys_that_are_not_its_own(tmp_path: Path) -> None:
    environment = {"AVAILABILITY_JWKS_FILE": str(tmp_path / "keys"), "AVAILABILITY_TOKEN_AUDIENCE": ""}
    refused = CliRunner().invoke(main, ["up", "--data-dir", str(tmp_path / "data")], env=environment)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("not set: token_audience, token_issuer; ")
    assert not (tmp_path / "data").exists()
