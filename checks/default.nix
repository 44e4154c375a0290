# Sandboxed checks of a runtime. The builder is the rei program itself, so that they need no nixpkgs and no shell.
#
# Each check is a derivation whose output holds verdict.json; it fails to build only where the check could not be run.
# `candidate` and `active` are store paths or packages, `golden` is a golden run, `spec` says how the runtime is started
# (`rei check --json` prints it for a rei.toml). Another `nonce` asks again where Nix would repeat an earlier verdict.
{
  rei, # the program: a file
  system,
  nonce ? "",
}:
let
  # The judged may read its own closure and nothing else: Nix writes down what that is.
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
  # A sandboxed build works here and now.
  control = { spec }: check { inherit spec; };
  # The candidate becomes ready in time, stays in the foreground, and stops on SIGTERM in time.
  boot = { spec, candidate }: check { inherit spec candidate; };
  # The candidate answers a golden run as recorded, but for what differs between two runs of Active.
  golden =
    {
      spec,
      candidate,
      active,
      golden,
    }@asked:
    check asked;
  # What fails on Active passes on the candidate; without a candidate: whether it fails on Active.
  reproduction =
    {
      spec,
      active,
      golden,
      candidate ? null,
    }@asked:
    check asked;
}
