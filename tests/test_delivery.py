"""Tests the deployment files: the Dockerfile, the compose file, the systemd unit."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "Dockerfile").is_file(), reason="needs the clone, not the tests alone")


def dockerfile() -> list[tuple[str, str]]:
    """Return (instruction, arguments) of the last stage."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    all_lines = [(line.split()[0], line.split(None, 1)[1]) for line in lines if line.strip()]
    last = max(n for n, (instruction, _) in enumerate(all_lines) if instruction == "FROM")
    return all_lines[last:]


def extras() -> set[str]:
    if sys.version_info < (3, 11):
        pytest.skip("needs tomllib")
    import tomllib

    return set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])


def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def unit() -> configparser.RawConfigParser:
    class Repeated(dict):
        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, self[key] + value if key in self and isinstance(value, list) else value)

    parser = configparser.RawConfigParser(dict_type=Repeated, strict=False)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(ROOT / "deploy" / "facespace.service", encoding="utf-8")
    return parser


def options_of(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


@pytest.fixture(scope="module")
def serve_options() -> set[str]:
    """Return the options that `facespace serve --help` lists."""
    done = subprocess.run(
        [sys.executable, "-m", "facespace", "serve", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    return set(re.findall(r"--[a-z][a-z-]+", done.stdout))


# The image


def test_the_image_runs_as_a_user_without_rights():
    user = [rest for instruction, rest in dockerfile() if instruction == "USER"]
    assert user and not re.match(r"(root|0)\b", user[-1])
    assert re.match(r"\d+:\d+$", user[-1]), "a number, so that an orchestrator can see that it is not root"


def test_the_image_has_a_health_check():
    check = next(rest for instruction, rest in dockerfile() if instruction == "HEALTHCHECK")
    command = json.loads(check[check.index("CMD") + 3 :])
    assert "/healthz" in command[-1]
    compile(command[-1], "health check", "exec")


def test_changing_files_lie_in_the_volume():
    instructions = dict(dockerfile())
    assert instructions["VOLUME"] == instructions["WORKDIR"] == "/data"
    variables = dict(word.split("=", 1) for word in shlex.split(instructions["ENV"]) if "=" in word)
    for name in ("FACESPACE_HOME", "FACESPACE_GALLERY"):
        assert variables[name].startswith("/data/")


def test_the_extras_of_the_image_are_those_of_the_project():
    expected = re.search(r"^ARG EXTRAS=(.+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert expected
    chosen = set(expected[1].split(","))
    assert "serve" in chosen and "train" not in chosen
    assert chosen <= extras()


def test_the_build_stage_gets_the_sources_of_the_wheel():
    given = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert given >= {"src", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "NOTICE", "licences"}
    assert all((ROOT / name).exists() for name in given)


def test_the_image_starts_with_existing_options(serve_options):
    instructions = dict(dockerfile())
    assert json.loads(instructions["ENTRYPOINT"]) == ["facespace"]
    command = json.loads(instructions["CMD"])
    assert command[0] == "serve"
    assert options_of(command) <= serve_options


def test_the_script_that_sums_the_image_reads_the_dockerfile():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^FROM debian:[a-z]+-slim$", text, re.MULTILINE)
    assert re.search(r'^ *CMD \[".*python", "-c", ".*"\]$', text, re.MULTILINE)
    assert (ROOT / "scripts" / "image_size.sh").stat().st_mode & 0o100
    assert subprocess.run(["bash", "-n", str(ROOT / "scripts" / "image_size.sh")], check=False).returncode == 0


# The compose file


def test_every_service_has_a_health_check():
    services = compose()["services"]
    assert "pg_isready" in services["postgres"]["healthcheck"]["test"][1]
    assert "build" in services["facespace"]  # its check is in the image
    assert services["facespace"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_images_of_others_have_a_tag():
    for service in compose()["services"].values():
        name, _, tag = service["image"].partition(":")
        assert tag and tag != "latest", name


def test_the_compose_file_contains_no_secret():
    held = compose()
    for service in held["services"].values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or name.endswith("_FILE"), name
            assert not re.search(r"://[^/@]*:[^/@]+@", str(value))
        assert set(service["secrets"]) <= held["secrets"].keys()
    assert all("file" in secret for secret in held["secrets"].values())


def test_the_password_reaches_the_program(tmp_path):
    """Runs the entrypoint's shell line with a fake secret and a fake program."""
    words = [word.replace("$$", "$") for word in compose()["services"]["facespace"]["entrypoint"]]
    (tmp_path / "secret").write_text("s3cret of the database\n")
    program = tmp_path / "facespace"
    program.write_text('#!/bin/sh\nprintf "%s|" "$PGPASSWORD" "$@"\n')
    program.chmod(0o755)
    words = [word.replace("/run/secrets/postgres-password", str(tmp_path / "secret")) for word in words]
    done = subprocess.run(
        [*words, "serve", "key", "create"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "s3cret of the database|serve|key|create|"


def test_the_container_may_write_only_in_its_volume():
    service = compose()["services"]["facespace"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["volumes"] == ["state:/data"]


def test_ports_are_open_only_to_this_machine():
    held = compose()
    assert all(port.startswith("127.0.0.1:") for port in held["services"]["facespace"]["ports"])
    assert "ports" not in held["services"]["postgres"]
    assert held["networks"]["inside"]["internal"] is True


def test_the_container_starts_with_existing_options(serve_options):
    assert options_of(compose()["services"]["facespace"]["command"]) <= serve_options


# systemd


def test_the_unit_is_hardened():
    service = unit()["Service"]
    for key, value in {
        "DynamicUser": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "StateDirectory": "facespace",
        "StateDirectoryMode": "0700",
        "UMask": "0077",
    }.items():
        assert service[key] == value, key


def test_the_unit_starts_with_existing_options(serve_options):
    words = shlex.split(unit()["Service"]["ExecStart"])
    assert words[1] == "serve"
    assert options_of(words) <= serve_options
    assert "/var/lib/facespace/people.gallery" in words  # in its StateDirectory


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not at hand")
def test_systemd_understands_the_unit(tmp_path):
    program = tmp_path / "facespace"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (ROOT / "deploy" / "facespace.service").read_text(encoding="utf-8")
    copy = tmp_path / "facespace.service"
    copy.write_text(text.replace("/opt/facespace/bin/facespace", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not at hand")
def test_systemd_finds_the_unit_well_confined():
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(ROOT / "deploy" / "facespace.service")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd does not look at files")
    assert done.returncode == 0, done.stdout[-2000:]
