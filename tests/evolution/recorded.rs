//! An operator makes a golden run of a live service, qualifies it, and asks what it covers.

use std::time::Duration;

use rei::http::{self, Request};
use serde_json::Value;

use crate::lab::{Address, Lab, Setup};

const LONG: Duration = Duration::from_secs(20);

const SETUP: Setup = Setup {
    health: "http = { listen = \"http\", path = \"/healthz\", interval = \"200ms\", timeout = \"5s\" }\n\
             log = { format = \"json\", status = \"status\", duration = \"duration_ms\", method = \"method\", path = \"path\" }",
    more: "[validation]\ngolden = [\"LAB/golden\"]",
    first: "ok logs 1",
    runtime: "",
    promotion: "",
    unix: false,
    udp: false,
};

/// Runs a command of rei with the lab's file; returns its exit code and what it printed.
pub fn rei(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = lab.command(Lab::program());
    let output = command.arg("--config").arg(lab.path("rei.toml")).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code(), said.concat())
}

#[test]
fn a_run_is_qualified_on_active_and_its_share_of_the_live_routes_is_shown() {
    let Some(mut lab) = Lab::serving(SETUP) else { return };
    let Address::Tcp(address) = *lab.address() else { panic!("a TCP service") };
    let users = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for path in [["/greet"; 30].as_slice(), &["/say/10"; 10], &["/other"; 10]].concat() {
        let answer = users.block_on(http::send(&http::Address::Tcp(address), &Request::get(path), LONG)).unwrap();
        assert_eq!(answer.status, 200);
    }
    std::fs::write(lab.path("live.txt"), "GET /greet\nGET /say/10\n").unwrap();
    let list = lab.path("live.txt");
    let (code, said) = rei(&lab, &["golden", "import", list.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");

    // First of all, because the live routes are those of the last minute.
    lab.wait_for("the log's requests", |lab| {
        let traffic = lab.ask(async |it| it.routes().await).ok()?;
        (traffic.iter().map(|source| source.requests).max()? >= 52).then_some(())
    });
    let (code, said) = rei(&lab, &["golden", "review", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let review: Value = serde_json::from_str(&said).unwrap();
    let row = |route: &str| {
        let rows = review["routes"].as_array().unwrap();
        rows.iter().find(|row| row["route"] == route).map(|row| (row["requests"].clone(), row["exchanges"].clone()))
    };
    assert_eq!(row("GET /greet"), Some((31.into(), 1.into())), "{review:#}");
    assert_eq!(row("GET /say/{}"), Some((11.into(), 1.into())), "{review:#}");
    assert_eq!(row("GET /other"), Some((10.into(), 0.into())), "{review:#}");
    assert_eq!((&review["covered"], &review["requests"]), (&42.into(), &52.into()), "{review:#}");

    let (code, said) = rei(&lab, &["golden", "qualify", "live"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Active repeats 2 of 2 recorded exchanges"), "{said}");
    let (code, said) = rei(&lab, &["golden", "show", "live"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("qualified on Active: 2 kept, 0 dropped"), "{said}");
    // The process id in the greeting differs each time, and nothing else of it may.
    let (_, said) = rei(&lab, &["golden", "show", "live", "--json"]);
    assert!(said.contains("pattern hello from [0-9]+ of ok logs [0-9]+"), "{said}");
    let (code, said) = rei(&lab, &["golden", "qualify", "absent"]);
    assert!(code != Some(0) && said.contains("there is no golden run absent"), "{code:?}: {said}");
}
