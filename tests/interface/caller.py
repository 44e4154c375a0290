"""Calls both interfaces of rei with the package `varlink`, which learns them by introspection."""

import sys

import varlink

control, automation = sys.argv[1:]

with varlink.Client(f"unix:{control}") as client:
    names = [interface.name for interface in map(client.get_interface, client.get_interfaces())]
    assert "io.openexec.Supervisor" in names, names
    with client.open("io.openexec.Supervisor") as supervisor:
        status = supervisor.Status()["status"]
        assert status["phase"] == "canary", status
        assert status["active"]["share"] == 0.95, status
        assert status["active"]["instances"][0]["usage"]["rss_bytes"] == 91226112, status
        assert status.get("previous") is None, status
    with client.open("io.openexec.Supervisor") as supervisor:
        seen = []
        for reply in supervisor.Monitor(_more=True):
            seen.append(reply["event"]["seq"])
            if len(seen) == 3:
                break
        assert seen == [1, 2, 3], seen
    with client.open("io.openexec.Supervisor") as supervisor:
        assert supervisor.Rollback(to_generation=40) == {"generation": 41}
        assert supervisor.Show(id="rec_0001")["shown"]["object"]["action"] == "rolled_back"

with varlink.Client(f"unix:{automation}") as client:
    with client.open("io.openexec.RuntimeEvolution") as runtime:
        context = runtime.CollectEvolutionContext(incident_id="inc_0001")["context"]
        assert context["stack_traces"][0]["language"] == "go", context
        assert context["runtime_context"] == {"queue": 7}, context
        candidate = runtime.BuildCandidateRuntime(context=context)["candidate"]
        report = runtime.ValidateCandidate(candidate=candidate)["report"]
        assert report["verdict"] == "inconclusive", report
        try:
            runtime.CollectEvolutionContext(incident_id="inc_0007")
            raise AssertionError("an unknown incident has no context")
        except varlink.VarlinkError as error:
            assert error.error() == "io.openexec.RuntimeEvolution.UnknownIncident", error
            assert error.parameters() == {"incident_id": "inc_0007"}, error
    with client.open("io.openexec.RuntimeEvolution") as runtime:
        reports = runtime.ReportRuntimeHealth(interval_ms=50, _more=True)
        seqs = [next(reports)["report"]["seq"] for _ in range(3)]
        assert seqs == sorted(set(seqs)), seqs

print("all calls done")
