# One validation inside Nix's own sandboxes: Nix builds a version and runs its flake's checks; the judge, which is rei as the builder
# of a derivation, starts the version and compares its answers with recorded ones. Then the same with a candidate that answers
# differently, which must not pass.
#
# A whole supervisor cannot run here: its candidates are judged in sandboxes, and Nix makes no sandbox inside another one.
# `make test` and the VM test run whole supervisors.
{
  pkgs,
  rei-unwrapped,
  sandboxed,
}:
let
  inherit (pkgs.stdenv.hostPlatform) system;

  # The demo's service: scripts, which a static program interprets.
  tree = ../../src/demo/tree;
  interpreted =
    name: args:
    derivation {
      inherit name system args;
      builder = "${rei-unwrapped}/bin/rei-demo-runtime";
    };
  package =
    script:
    interpreted "greeter" [
      "package"
      "${script}"
      "bin/greeter"
    ];
  source = tree + "/bin/greeter";
  active = package source;
  other = package (
    builtins.toFile "greeter" (
      builtins.replaceStrings [ "Come back soon" ] [ "Do not come back" ] (builtins.readFile source)
    )
  );
  tests = map (
    file:
    interpreted "test-${file}" [
      "test"
      "${source}"
      "${tree}/tests/${file}"
    ]
  ) (builtins.attrNames (builtins.readDir (tree + "/tests")));

  spec = check: kind: {
    schema = "rei-check/1.0";
    inherit check kind;
    instance = {
      command = [ "bin/greeter" ];
      env = { };
      listen = [
        {
          name = "http";
          kind = "tcp4";
        }
      ];
      probes = [
        {
          kind = "http";
          listen = "http";
          path = "/healthz";
          timeout_ms = 1000;
        }
      ];
      start_timeout_ms = 60000;
      stop_timeout_ms = 10000;
      stop_signal = "SIGTERM";
      stop_mode = "control-group";
    };
    request_timeout_ms = 20000;
    timeout_ms = 300000;
  };
  golden =
    candidate:
    sandboxed.golden {
      spec = spec "golden/greeter" "golden";
      inherit candidate active;
      golden = ./greeter.golden.jsonl;
    };
in
pkgs.runCommand "rei-judged"
  {
    tests = map toString tests;
    control = sandboxed.control { spec = spec "control" "control"; };
    boot = sandboxed.boot {
      spec = spec "boot" "boot";
      candidate = active;
    };
    same = golden active;
    different = golden other;
  }
  ''
    says() {
      cat "$2/verdict.json"
      grep -q "\"verdict\": *\"$1\"" "$2/verdict.json" || { echo "$2: this should be $1" >&2; exit 1; }
    }
    says pass "$control"
    says pass "$boot"
    says pass "$same"
    says fail "$different"
    touch "$out"
  ''
