# Sandboxed checks of a runtime. The builder is the rei program itself, so the checks need no nixpkgs and no shell.
#
# Each check is a derivation whose output contains verdict.json; it fails to build only if the check could not run. `candidate`
# and `active` are store paths or packages, `golden` is a golden run, `spec` says how to start the runtime (`rei check --json`
# prints it for a rei.toml). With another `nonce` a check runs again; otherwise Nix would repeat an earlier verdict.
{
  rei, # the program: a file
  system,
  nonce ? "",
}:
let
  # The candidate may read only its own closure: Nix writes down which paths that is.
  closureOf =
    name: path:
    if path == null then
      [ ]
    else
      [
        "closure-${name}"
        path
      ];

  check =
    {
      spec,
      candidate ? null,
      active ? null,
      golden ? null,
    }:
    derivation {
      name = "rei-check-${builtins.replaceStrings [ "/" ] [ "-" ] spec.check}";
      inherit
        system
        nonce
        candidate
        active
        golden
        ;
      builder = "${rei}";
      args = [ "builder" ];
      spec = builtins.toJSON spec;
      exportReferencesGraph = closureOf "candidate" candidate ++ closureOf "active" active;
      preferLocalBuild = true;
      allowSubstitutes = false;
    };
in
{
  # Passes if a sandboxed build works on this machine.
  control = { spec }: check { inherit spec; };
  # Passes if the candidate becomes ready in time, stays in the foreground, and stops on SIGTERM in time.
  boot = { spec, candidate }: check { inherit spec candidate; };
  # Passes if the candidate answers a golden run as recorded, except for differences between two runs of Active.
  golden =
    {
      spec,
      candidate,
      active,
      golden,
    }@asked:
    check asked;
  # Passes if the exchanges that fail on Active pass on the candidate. Without a candidate it only tests if they fail on Active.
  reproduction =
    {
      spec,
      active,
      golden,
      candidate ? null,
    }@asked:
    check asked;
}
