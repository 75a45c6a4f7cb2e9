"""Settings: who wins, what is refused and how it is named, and that no secret is shown."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigurationError
from engine.settings import SECRETS, SEED_NAMES, Settings, load, mask_url, read_again, show


def written(folder: Path, text: str) -> Path:
    file = folder / "scada.toml"
    file.write_text(text, "utf-8")
    return file


# Who wins


def test_without_anything_the_defaults_hold() -> None:
    assert load(environment={}) == Settings()


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    file = written(tmp_path, "grpc_port = 1\nmetrics_port = 1\nmax_buffer_size = 1\n")
    environment = {"GRPC_PORT": "2", "METRICS_PORT": "2"}
    settings = load(flags={"grpc_port": 3, "metrics_port": None}, environment=environment, file=file)
    assert (settings.grpc_port, settings.metrics_port, settings.max_buffer_size) == (3, 2, 1)
    assert settings.buffer_duration_ms == 5_000


def test_nested_settings_come_from_every_source(tmp_path: Path) -> None:
    file = written(tmp_path, "[opcua]\nqueue_size = 1\npublish_requests = 1\nitems_per_call = 1\n")
    environment = {"SCADA_OPCUA__QUEUE_SIZE": "2", "SCADA_OPCUA__PUBLISH_REQUESTS": "2"}
    settings = load(flags={"opcua.queue_size": 3}, environment=environment, file=file)
    opcua = settings.opcua
    assert (opcua.queue_size, opcua.publish_requests, opcua.items_per_call) == (3, 2, 1)
    assert opcua.lifetime_count == 300


def test_the_names_of_the_earlier_service_work_as_they_are() -> None:
    settings = load(
        environment={
            "DATABASE_URL": "postgresql://wellpulse:wellpulse@localhost:5432/wellpulse_master",
            "METRICS_PORT": "9091",
            "GRPC_PORT": "50052",
            "BUFFER_DURATION_MS": "1000",
            "MAX_BUFFER_SIZE": "500",
            "LOG_LEVEL": "WARNING",
        }
    )
    assert settings == Settings(
        database_url="postgresql://wellpulse:wellpulse@localhost:5432/wellpulse_master",
        metrics_port=9091,
        grpc_port=50052,
        buffer_duration_ms=1000,
        max_buffer_size=500,
        log_level="warning",
    )


def test_the_earlier_names_lead_to_settings_that_exist() -> None:
    assert set(SEED_NAMES.values()) <= {field.name for field in fields(Settings)}
    assert SEED_NAMES.keys() == {
        "DATABASE_URL", "METRICS_PORT", "GRPC_PORT", "BUFFER_DURATION_MS", "MAX_BUFFER_SIZE", "LOG_LEVEL",
    }  # fmt: skip


def test_other_names_of_the_environment_are_not_ours() -> None:
    environment = {
        "PATH": "/bin",
        "RUST_LOG": "info",
        "SCADA_TEST_DATABASE_URL": "x",
        "SCADA_BUILD_SANITIZE": "y",
    }
    assert load(environment=environment) == Settings()


def test_the_workers_are_a_number_or_auto() -> None:
    assert load(environment={"SCADA_WORKERS": "3"}).worker_count() == 3
    assert load(environment={"SCADA_WORKERS": "auto"}).worker_count() >= 1


# Secrets from files


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("DATABASE_URL_FILE", "database_url"),
        ("SCADA_DATABASE_URL_FILE", "database_url"),
        ("SCADA_SECRETS_KEY_FILE", "secrets_key"),
    ],
)
def test_a_secret_comes_from_the_file_that_its_name_with_file_points_to(
    tmp_path: Path, name: str, setting: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    assert getattr(load(environment={name: str(secret)}), setting) == "hunter2"


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL_FILE: .*/missing"):
        load(environment={"DATABASE_URL_FILE": str(tmp_path / "missing")})
    with pytest.raises(ConfigurationError, match=r"SCADA_SECRETS_KEY_FILE: .*"):
        load(environment={"SCADA_SECRETS_KEY_FILE": str(tmp_path)})


def test_a_secret_that_was_named_nearer_beats_the_one_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the file")
    environment = {"DATABASE_URL_FILE": str(secret)}
    file = written(tmp_path, f'database_url_file = "{secret}"\n')
    for settings in (
        load(flags={"database_url": "of the flag"}, environment=environment),
        load(environment={"DATABASE_URL": "of the flag"}, file=file),
    ):
        assert settings.database_url == "of the flag"
        assert read_again(settings) is settings
    for settings in (
        load(environment=environment),
        load(environment={}, file=file),
        load(flags={"database_url_file": str(secret)}, environment={"DATABASE_URL": "of the environment"}),
    ):
        assert settings.database_url == "of the file"
        assert settings.database_url_file == str(secret)


def test_the_databases_address_is_read_again_from_its_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("postgresql://u:one@h/d\n")
    settings = load(environment={"DATABASE_URL_FILE": str(secret), "GRPC_PORT": "1"})
    assert read_again(settings) is settings
    secret.write_text("postgresql://u:two@h/d\n")
    renewed = read_again(settings)
    assert renewed == replace(settings, database_url="postgresql://u:two@h/d")
    assert show(renewed)["database_url"] == "postgresql://u:***@h/d"
    secret.write_text("")
    with pytest.raises(ConfigurationError, match="is empty"):
        read_again(settings)
    secret.unlink()
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_again(settings)


def test_only_secrets_come_from_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="grpc_port_file"):
        load(environment={"SCADA_GRPC_PORT_FILE": str(tmp_path)})


# What is refused


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("grpc_prot = 1", "grpc_prot"),
        ("[opcua]\nqueue = 1", "opcua.queue"),
        ("[opc_ua]\nqueue_size = 1", "opc_ua.queue_size"),
        ("[opcua.deeper]\nx = 1", "opcua.deeper.x"),
        ("opcua = 1", "opcua"),
    ],
)
def test_an_unknown_key_in_a_file_is_an_error_that_names_its_path(
    tmp_path: Path, text: str, path: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as raised:
        load(environment={}, file=file)
    assert repr(path) in str(raised.value)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    "name", ["SCADA_GRPC_PROT", "SCADA_OPCUA__QUEUE", "SCADA_OPCUA_QUEUE_SIZE", "SCADA_"]
)
def test_an_unknown_name_in_the_environment_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}: there is no setting"):
        load(environment={name: "1"})


def test_an_unknown_flag_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigurationError, match="flag for nonsense"):
        load(flags={"nonsense": 1}, environment={})


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"GRPC_PORT": "no"}, "GRPC_PORT: 'no' does not fit"),
        ({"GRPC_PORT": ""}, "GRPC_PORT: '' does not fit"),
        ({"GRPC_PORT": "70000"}, "GRPC_PORT: 70000 is not between 0 and 65535"),
        ({"BUFFER_DURATION_MS": "0"}, "BUFFER_DURATION_MS: 0 is not between 10 and 600000"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: 'loud' does not fit"),
        ({"SCADA_WORKERS": "0"}, "SCADA_WORKERS: 0 is not between 1 and 256"),
        ({"SCADA_WORKERS": "many"}, "SCADA_WORKERS: 'many' does not fit"),
        ({"SCADA_OPCUA__QUEUE_SIZE": "0"}, "SCADA_OPCUA__QUEUE_SIZE: 0 is not between"),
        ({"SCADA_OPCUA__REQUEST_TIMEOUT_S": "nan"}, "SCADA_OPCUA__REQUEST_TIMEOUT_S: nan is not between"),
        ({"SCADA_OPCUA__REQUEST_TIMEOUT_S": "soon"}, "SCADA_OPCUA__REQUEST_TIMEOUT_S: 'soon' does not fit"),
        ({"MAX_BUFFER_SIZE": "200000"}, "ring_rows: 262144 is less than twice max_buffer_size"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_source(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(environment=environment)
    assert said in str(raised.value)


def test_every_limit_takes_its_ends_and_refuses_what_is_beyond() -> None:
    from engine.settings import _LIMITS

    for path, (least, most) in _LIMITS.items():
        for value in (least - 1, most + 1):
            with pytest.raises(ConfigurationError, match=path):
                load(flags={path: value}, environment={})
        # What has to be in proportion to it, at the end that lets it be anything.
        others: dict[str, Any] = {
            "max_buffer_size": {"ring_rows": 1 << 26},
            "ring_rows": {"max_buffer_size": 1},
            "opcua.keep_alive_count": {"opcua.lifetime_count": 3_000_000},
            "opcua.lifetime_count": {"opcua.keep_alive_count": 1},
        }.get(path, {})
        for value in (least, most):
            load(flags={path: value} | others, environment={})


def test_every_number_has_limits() -> None:
    from engine.settings import _LIMITS, JournalSettings, OpcuaSettings, UpkeepSettings

    def number(default: object) -> bool:
        return isinstance(default, (int, float)) and not isinstance(default, bool)

    numbers = {field.name for field in fields(Settings) if number(field.default)} | {"workers"}
    numbers |= {f"opcua.{field.name}" for field in fields(OpcuaSettings) if number(field.default)}
    numbers |= {f"journal.{field.name}" for field in fields(JournalSettings) if number(field.default)}
    numbers |= {f"upkeep.{field.name}" for field in fields(UpkeepSettings) if number(field.default)}
    assert _LIMITS.keys() == numbers


@pytest.mark.parametrize(
    ("text", "said"), [("a = ", "is not valid TOML"), ("a = 1\na = 2", "is not valid TOML")]
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load(environment={}, file=written(tmp_path, text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the configuration file .*/none\.toml"):
        load(environment={}, file=tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not valid TOML"):
        load(environment={}, file=binary)


# Where the user keeps state


def test_the_certificates_are_where_the_user_keeps_state() -> None:
    assert load(environment={"XDG_STATE_HOME": "/state"}).opcua.pki_folder == "/state/scada-engine/pki"


def test_a_folder_that_was_set_wins_over_the_users_state() -> None:
    environment = {"XDG_STATE_HOME": "/state", "SCADA_OPCUA__PKI_FOLDER": "/etc/pki"}
    assert load(environment=environment).opcua.pki_folder == "/etc/pki"


# Secrets are not shown


def test_shown_settings_have_every_secret_masked() -> None:
    shown = show(Settings(database_url="postgresql://u:hunter2@h:5432/d", secrets_key="hunter2"))
    assert shown["database_url"] == "postgresql://u:***@h:5432/d"
    assert shown["secrets_key"] == "***"
    assert "hunter2" not in str(shown)
    assert shown["opcua"]["queue_size"] == 120


def test_a_secret_that_is_not_set_is_shown_as_that() -> None:
    assert {name: show(Settings())[name] for name in SECRETS} == {"database_url": "", "secrets_key": ""}


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u:p%40@h/d", "postgresql://u:***@h/d"),
        ("postgresql://:p@h/d", "postgresql://:***@h/d"),
        ("postgresql://h/d?password=p&sslmode=require", "postgresql://h/d?***"),
        ("host=h password=p dbname=d", "***"),
        ("host=h dbname=d", "host=h dbname=d"),
        ("", ""),
    ],
)
def test_the_password_of_a_url_is_masked_wherever_it_stands(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_an_error_about_a_secret_does_not_show_it() -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(flags={"secrets_key": ["hunter2"]}, environment={})
    assert "hunter2" not in str(raised.value)


def test_settings_travel_to_another_process_unchanged() -> None:
    settings = load(environment={"GRPC_PORT": "1", "SCADA_OPCUA__QUEUE_SIZE": "5"})
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_lifetime_shorter_than_three_keep_alives_is_refused_by_name() -> None:
    with pytest.raises(
        ConfigurationError, match=r"SCADA_OPCUA__LIFETIME_COUNT: 20 .*keep_alive_count \(10\)"
    ):
        load(environment={"SCADA_OPCUA__LIFETIME_COUNT": "20"})


def test_the_documentation_has_a_row_for_every_setting_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
    rows = {
        cells[1].strip(" `"): cells[3].strip()
        for cells in (line.split("|") for line in page.splitlines())
        if len(cells) > 4
    }
    defaults = {
        name: value for name, value in show(Settings()).items() if name not in ("opcua", "journal", "upkeep")
    }
    for group in ("opcua", "journal", "upkeep"):
        defaults |= {f"{group}.{name}": value for name, value in show(Settings())[group].items()}
    for name, value in defaults.items():
        shown = rows.get(name)
        assert shown is not None, f"{name} has no row"
        if isinstance(value, bool):
            assert shown == str(value).lower(), name
        elif isinstance(value, int | float):
            assert float(shown) == float(value), name
        else:
            assert shown == (value or "none"), name
