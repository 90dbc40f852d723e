"""Connection to Kubeflow Pipelines and authentication, with kfp's own client and a stand-in for its REST API."""

import os
import sys
from pathlib import Path

import pytest

from quantgate.pipelines.exits import USER_ERROR
from quantgate.pipelines.kubeflow import runs
from quantgate.pipelines.kubeflow.connection import Place, client_of
from tests.support.kfp_server import JSON, State
from tests.support.on_kubeflow import QUICK, RESULTS, Answer, kubeflow, pipeline, submitted

__all__ = ["kubeflow", "pipeline"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "options", "what"),
    [
        (
            {"token": "t0ken"},
            (),
            "did not accept the credentials: Request header error: no user. Give a new token with --token",
        ),
        ({"token": "t0ken"}, ("--token", "old"), "create token ACCOUNT --audience pipelines.kubeflow.org"),
        ({"token": "t0ken"}, ("--token", "two words"), "contains a space or a line break"),
        ({"namespaces": ("quantgate",)}, (), "give your namespace with --namespace"),
        ({"namespaces": ("quantgate",)}, ("--namespace", "nowhere"), "does not let you store the pipeline in the name"),
        ({}, ("--namespace", "quantgate"), "In single-user mode"),
        ({"login_page": True}, (), "not like Kubeflow Pipelines: perhaps with a login page"),
        ({"faults": [("GET", "healthz", 503)]}, (), "Check the address"),
        ({}, ("--in-cluster",), "in one way: --host URL; --in-cluster"),
        ({}, ("--ca", "/nowhere/ca.pem"), "There is no certificate at /nowhere/ca.pem"),
    ],
)
def test_a_user_without_access_learns_what_to_do(
    kubeflow: State, pipeline: Path, state: JSON, options: tuple[str, ...], what: str
) -> None:
    for name, value in state.items():
        setattr(kubeflow, name, value)
    done = submitted(kubeflow, pipeline, *options)
    assert done.status == USER_ERROR
    assert what in done.err
    assert kubeflow.objects["runs"] == {}


@pytest.mark.slow
def test_a_file_with_a_token_that_is_named_but_missing_is_reported(
    kubeflow: State, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    done = submitted(kubeflow, pipeline, "--detach")
    assert (done.status, done.err) == (
        USER_ERROR,
        f"There is no token at {tmp_path / 'token'}, the file that KF_PIPELINES_SA_TOKEN_PATH names.",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "what"),
    [
        (("--host", "http://127.0.0.1:9"), "http://127.0.0.1:9 does not answer"),
        (("--host", "kubeflow.example"), "is not a URL"),
        ((), "Say where Kubeflow Pipelines is"),
    ],
)
def test_an_address_without_a_server_is_reported(
    kubeflow: State, pipeline: Path, where: tuple[str, ...], what: str
) -> None:
    done = Answer("submit", *where, "--pipeline", str(pipeline), *RESULTS)
    assert done.status == USER_ERROR
    assert what in done.err


@pytest.mark.slow
def test_a_token_and_a_namespace_give_access_to_a_multi_user_kubeflow(
    kubeflow: State, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.token, kubeflow.namespaces = "t0ken", ("quantgate",)
    monkeypatch.setenv("QUANTGATE_KUBEFLOW_TOKEN", "t0ken\n")
    assert submitted(kubeflow, pipeline, "--namespace", "quantgate").status == 0
    assert kubeflow.only("experiments")["namespace"] == "quantgate"
    assert not (Path(os.environ["HOME"]) / ".config").exists()


def test_a_pod_authenticates_with_its_own_token_which_the_cluster_renews(
    kubeflow: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "token"
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(mounted))
    mounted.write_text("first")
    for place in (Place(in_cluster=True), Place(host=kubeflow.host)):  # on OpenShift a pod gives the address
        client = client_of(place, kubeflow.host)
        for token in ("first", "second"):
            mounted.write_text(token)
            kubeflow.token = token
            assert client.healthzs.healthz_service_get_healthz().multi_user is False


KUBECTL = """#!{python}
import os, socket, sys, threading
*options, ports = sys.argv[1:]
assert options == ["port-forward", "--namespace", "kfp", "--address", "127.0.0.1", "service/ml-pipeline-ui"]
local, _, remote = ports.partition(":")
assert remote == "80"
if os.environ.get("REFUSES"):
    sys.exit('Error from server (NotFound): services "ml-pipeline-ui" not found')
def pump(source, sink):
    while data := source.recv(65536):
        if not local and os.environ.get("DIES_AT", "nothing").encode() in data:
            os._exit(1)
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)
listener = socket.create_server(("127.0.0.1", int(local or 0)))
print(f"Forwarding from 127.0.0.1:{{listener.getsockname()[1]}} -> 3000", flush=True)
open(os.environ["PID_FILE"], "w").write(str(os.getpid()))
while True:
    near, far = listener.accept()[0], socket.create_connection(("127.0.0.1", {port}))
    for pair in ((near, far), (far, near)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


@pytest.fixture
def kubectl(kubeflow: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that forwards to the stand-in; returns the file where it leaves its process id."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL.format(python=sys.executable, port=kubeflow.port))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("PID_FILE", str(tmp_path / "pid"))
    return tmp_path / "pid"


@pytest.mark.slow
def test_a_forwarded_port_leads_to_kubeflow_and_ends_with_the_command(
    kubeflow: State, pipeline: Path, kubectl: Path
) -> None:
    there = ("--port-forward", "--kubeflow-namespace", "kfp")
    done = Answer("submit", *there, "--pipeline", str(pipeline), *RESULTS, *QUICK)
    assert done.status == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(kubectl.read_text()), 0)


@pytest.mark.slow
def test_a_port_is_forwarded_again_if_kubectl_ends_while_a_run_is_followed(
    kubeflow: State, pipeline: Path, kubectl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES_AT", '"RUNNING"')
    monkeypatch.setattr(runs, "PATIENCE_S", 60.0)  # long beside a start of kubectl's; the test's end where it is not
    there = ("--port-forward", "--kubeflow-namespace", "kfp")
    done = Answer("submit", *there, "--pipeline", str(pipeline), *RESULTS, *QUICK)
    assert (done.status, "The run continues; waiting for an answer." in done.out) == (0, True)
    assert "run: succeeded" in done.out
    with pytest.raises(ProcessLookupError):
        os.kill(int(kubectl.read_text()), 0)


@pytest.mark.parametrize(
    ("place", "options"),
    [
        (Place(host="http://h", token="t0ken", ca="my ca.pem"), "--host http://h --ca 'my ca.pem'"),
        (Place(port_forward=True, namespace="quantgate"), "--port-forward --namespace quantgate"),
        (Place(in_cluster=True, kubeflow_namespace="kfp"), "--in-cluster --kubeflow-namespace kfp"),
    ],
)
def test_a_place_is_shown_as_its_options_without_the_token(place: Place, options: str) -> None:
    assert place.options == options


@pytest.mark.slow
def test_a_port_that_is_not_forwarded_is_reported_with_kubectls_message(
    kubeflow: State, pipeline: Path, kubectl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSES", "1")
    there = ("--port-forward", "--kubeflow-namespace", "kfp")
    done = Answer("submit", *there, "--pipeline", str(pipeline), *RESULTS)
    assert done.status == USER_ERROR
    assert 'services "ml-pipeline-ui" not found' in done.err
    assert "port-forward --namespace kfp" in done.err
