"""The Terraform files are right as far as it can be told without Terraform and Google."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import hcl2
import pytest
import yaml

from flows.cli import parser
from infra.cloud_build import REPOSITORY
from infra.local.rules import MASK
from infra.rights import ACT_AS, APIS, BUCKET_RIGHTS, PROJECT_RIGHTS, REPOSITORY_RIGHTS, SERVICE_RIGHTS
from infra.settings import Settings, environment_variable
from tests.infra.terraform import FOLDER, TABLE, Checker, blocks_of, read_files, used_table

FILES = read_files()
README = Path("infra/README.md").read_text()
SCHEMA = json.loads(TABLE.read_text())
WHOLE_SCHEMA = Path(os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"), "terraform", "google-provider.json")


def test_files_have_no_fault():
    assert Checker(FILES, SCHEMA).check() == []


@pytest.mark.parametrize(
    ("file", "before", "after", "fault"),
    [
        pytest.param(
            "storage.tf",
            "force_destroy ",
            "force_destory ",
            "google_storage_bucket.data.force_destory is not an argument",
            id="misspelt argument",
        ),
        pytest.param(
            "storage.tf",
            "with_state  ",
            "state  ",
            "lifecycle_rule.condition.state is not an argument",
            id="misspelt argument of an inner block",
        ),
        pytest.param(
            "storage.tf",
            'format        = "DOCKER"',
            "",
            "google_artifact_registry_repository.images has no format",
            id="missing required argument",
        ),
        pytest.param(
            "alerts.tf",
            "amount {",
            "all_updates_rule {",
            "google_billing_budget.monthly has no amount",
            id="missing required block",
        ),
        pytest.param(
            "storage.tf", "action {\n      type =", "action {\n      storage_class =", "action has no type", id="inner"
        ),
        pytest.param(
            "services.tf",
            "containers {\n      image = local.placeholder\n    }\n  }",
            "}\n  containers {\n    image = local.placeholder\n  }",
            "google_cloud_run_v2_service.function.containers is not an argument",
            id="block at the wrong level",
        ),
        pytest.param(
            "storage.tf",
            "versioning {\n    enabled = true\n  }",
            "versioning = { enabled = true }",
            "versioning must be a block",
            id="block as an argument",
        ),
        pytest.param(
            "alerts.tf", "labels       = {", "labels {", "labels must not be a block", id="argument as a block"
        ),
        pytest.param(
            "vm.tf",
            "shielded_instance_config {",
            "boot_disk {",
            "boot_disk must not be repeated",
            id="repeated block",
        ),
        pytest.param("vm.tf", "= 50", '= "large"', "size must be of the type number", id="wrong type"),
        pytest.param(
            "vm.tf", "google_compute_network.vm.id", "google_compute_network.net.id", "there is no", id="resource"
        ),
        pytest.param(
            "vm.tf", "google_compute_router_nat.vm,", "google_compute_nat.vm,", "there is no", id="depends_on"
        ),
        pytest.param("apis.tf", "each.value", "each.name", "each.name has no value here", id="each"),
        pytest.param("vm.tf", "var.machine_type", "var.machine", "there is no var.machine", id="undeclared variable"),
        pytest.param("outputs.tf", "in local.settings", "in local.setting", "there is no local.setting", id="local"),
        pytest.param(
            "alerts.tf", "data.google_project.this", "data.google_project.it", "there is no", id="data source"
        ),
        pytest.param(
            "vm.tf", "= var.machine_type", '= "e2-small"', "var.machine_type is not used", id="unused variable"
        ),
        pytest.param("services.tf", "= local.placeholder", '= "hello"', "local.placeholder is not used", id="local"),
        pytest.param("outputs.tf", "page.uri", "page.url", "url does not exist", id="attribute that does not exist"),
        pytest.param("accounts.tf", "account.email", "account.mail", "mail does not exist", id="attribute in a loop"),
        pytest.param(
            "services.tf",
            '.account["page"].email',
            ".account.email",
            "google_service_account.account.email must have a key",
            id="missing key",
        ),
        pytest.param(
            "services.tf",
            "template[0].containers[0].image]",
            "template[0].containers[0].picture]",
            "template.[0].containers.[0].picture does not exist",
            id="path of ignore_changes",
        ),
        pytest.param("variables.tf", "floor(", "round(", "there is no function round", id="function"),
        pytest.param(
            "variables.tf",
            "  type        = bool",
            "",
            "var.protect_data has no type",
            id="variable without type",
        ),
        pytest.param("vm.sh", "${settings}", "${environment}", "not given the values that it names", id="template"),
        pytest.param("vm.tf", "/vm.sh", "/start.sh", "there is no file start.sh", id="template file"),
        pytest.param(
            "apis.tf",
            'resource "',
            'module "m" {}\nresource "',
            "blocks of the kind module are not checked",
            id="module",
        ),
    ],
)
def test_checker_finds_a_planted_fault(file: str, before: str, after: str, fault: str):
    assert before in FILES[file]
    faults = Checker({**FILES, file: FILES[file].replace(before, after)}, SCHEMA).check()
    assert any(fault in each for each in faults), faults


def test_table_is_part_of_the_provider_schema():
    assert f'version = "{SCHEMA["provider"]}"' in FILES["versions.tf"]
    if not WHOLE_SCHEMA.exists():
        pytest.skip(f"The provider's whole schema is not at {WHOLE_SCHEMA}.")
    assert used_table(json.loads(WHOLE_SCHEMA.read_text()), FILES) == SCHEMA


def test_names_are_those_of_the_code():
    assert f'repository_id = "{REPOSITORY}"' in FILES["storage.tf"]
    settings = set(re.findall(r"^    (ANIME_GENRE_\w+) +=", FILES["outputs.tf"], re.MULTILINE))
    assert settings <= {environment_variable(name) for name in Settings.model_fields}


def test_terraform_ignores_what_the_flow_sets_and_keeps_no_name_of_a_revision():
    """An apply that sends another template with the name of the present revision ends in a conflict (409)."""
    function, page = (
        set(re.findall(r"[\w.\[\]]+", listed))
        for listed in re.findall(r"ignore_changes = \[(.*?)\]\n", FILES["services.tf"], re.DOTALL)
    )
    set_by_flow = {"annotations", "build_config", "template", "traffic"}
    assert set_by_flow == set(MASK) and function == set_by_flow | {"client", "client_version"}
    assert page == {"client", "client_version", "template[0].containers[0].image"}


def test_pipeline_has_exactly_the_roles_that_the_doctor_names():
    granted = {
        (block.labels[0], role)
        for block in blocks_of(FILES["accounts.tf"])
        if block.kind == "resource" and block.labels[1] == "pipeline"
        for role in re.findall(r"roles/[\w.]+", json.dumps(block.body))
    }
    assert granted == {
        (f"google_{resource}_iam_member", right.role)
        for resource, rights in {
            "storage_bucket": BUCKET_RIGHTS,
            "artifact_registry_repository": REPOSITORY_RIGHTS,
            "project": PROJECT_RIGHTS,
            "service_account": [ACT_AS],
            "cloud_run_v2_service": SERVICE_RIGHTS,
        }.items()
        for right in rights
    }


def test_apis_are_those_that_the_doctor_checks():
    assert {f"{api}.googleapis.com" for api in APIS} <= set(re.findall(r"[a-z]+\.googleapis\.com", FILES["apis.tf"]))


def test_readme_gives_all_required_variables_and_reads_existing_outputs():
    blocks = [block for name, text in FILES.items() if name.endswith(".tf") for block in blocks_of(text)]
    required = {block.labels[0] for block in blocks if block.kind == "variable" and "default" not in block.body}
    variables = {block.labels[0] for block in blocks if block.kind == "variable"}
    given = set(hcl2.loads(re.findall(r"<<'END'\n(.*?)^END", README, re.MULTILINE | re.DOTALL)[0]))
    assert required <= given <= variables
    outputs = {block.labels[0] for block in blocks if block.kind == "output"}
    assert set(re.findall(r"output -raw (\w+)", README)) == outputs
    assert len(re.findall(r"^# (\d+)\. ", README, re.MULTILINE)) <= 10


def test_readme_gives_the_substitutions_of_the_page_build():
    build = yaml.safe_load(Path("infra/page-image.yaml").read_text())
    used = set(re.findall(r"\$(_\w+)", json.dumps(build)))
    assert used == set(re.findall(r"[\",](_[A-Z]+)=", README))


def test_vm_lets_the_user_of_the_service_read_the_version_of_the_code():
    assert re.search(r"^git config --system --replace-all safe\.directory \$app$", FILES["vm.sh"], re.MULTILINE)


@pytest.mark.parametrize(("is_installed", "calls"), [(True, ""), (False, "update\nsleep\nupdate\ninstall\n")])
def test_vm_installs_what_it_lacks_and_tries_again(is_installed: bool, calls: str, tmp_path: Path):
    beginning = FILES["vm.sh"].partition("id anime-genre")[0]
    stand_ins = """
        dpkg() { [ -e installed ]; }
        sleep() { echo sleep >>calls; }
        apt-get() {
          echo $1 >>calls
          [ "$(head -n 2 calls)" != update ] || return 100  # the first call
          [ $1 = update ] || touch installed
        }
    """
    (tmp_path / "calls").touch()
    if is_installed:
        (tmp_path / "installed").touch()
    subprocess.run(["bash", "-c", stand_ins + beginning], cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "calls").read_text() == calls


def test_bucket_keeps_earlier_versions_of_checkpoints_for_a_day_only():
    (ending,) = re.findall(r'_noncurrent_time = 1\n.*\n +matches_suffix += \["(.*)"\]', FILES["storage.tf"])
    assert f'{{name}}{ending}"' in Path("ml/training/checkpoints.py").read_text()


def test_bucket_bills_nothing_that_its_rules_have_deleted():
    (bucket,) = (block.body for block in blocks_of(FILES["storage.tf"]) if block.labels[0] == "google_storage_bucket")
    assert [policy["retention_duration_seconds"] for policy in bucket.get("soft_delete_policy", [])] == [0]


def test_vm_starts_a_command_that_exists():
    script, unit = FILES["vm.sh"], FILES["anime-genre.service"]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for path in re.findall(r"\$app/((?:infra|flows)/\S+)", script):
        assert Path(path).exists()
    assert FOLDER / "anime-genre.service" in [Path(path) for path in re.findall(r"cp \$app/(\S+)", script)]
    start = re.findall(r"^ExecStart=(.*)", unit, re.MULTILINE)[0]
    command, *options = shlex.split(start)
    assert command == "/opt/anime-genre/.venv/bin/anime-genre" and "app=/opt/anime-genre\n" in script
    parser().parse_args(options)
