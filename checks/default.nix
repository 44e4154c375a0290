# Sandboxed checks of a runtime. The builder is the rei program itself, so that they need no nixpkgs and no shell.
#
# Each check is a derivation whose output has verdict.json. It fails to build only if the check could not be run.
# `candidate` and `active` are store paths or packages, `golden` is a golden run, `spec` says how the runtime is started
# (`rei check --json` prints it for a rei.toml). Another `nonce` asks again, where Nix would repeat an earlier verdict.
{
  rei, # the program: a file
  system,
  nonce ? "",
}:
let
  # A check gets each of its inputs as an attribute. `versions` are started, and a version may read its closure and
  # nothing else: Nix writes down what that is. `files` are read by the judge alone.
  check =
    {
      spec,
      versions ? { },
      files ? { },
    }:
    derivation (
      versions
      // files
      // {
        name = "rei-check-${builtins.replaceStrings [ "/" ] [ "-" ] spec.check}";
        inherit system nonce;
        builder = "${rei}";
        args = [ "builder" ];
        spec = builtins.toJSON spec;
        exportReferencesGraph = builtins.concatLists (
          map (name: [
            "closure-${name}"
            versions.${name}
          ]) (builtins.attrNames versions)
        );
        preferLocalBuild = true;
        allowSubstitutes = false;
      }
    );
in
# One for each kind of check, under the word of the kind.
{
  # A sandboxed build works here and now.
  control = { spec }: check { inherit spec; };
  # The candidate becomes ready in time, stays in the foreground, and stops on its stop signal in time.
  boot =
    { spec, candidate }:
    check {
      inherit spec;
      versions = { inherit candidate; };
    };
  # The candidate answers a golden run as recorded, but for what differs between two runs of Active.
  golden =
    {
      spec,
      candidate,
      active,
      golden,
    }:
    check {
      inherit spec;
      versions = { inherit candidate active; };
      files = { inherit golden; };
    };
  # What fails on Active passes on the candidate; without a candidate: whether it fails on Active.
  reproduction =
    {
      spec,
      active,
      golden,
      candidate ? null,
    }:
    check {
      inherit spec;
      versions = {
        inherit active;
      }
      // (if candidate == null then { } else { inherit candidate; });
      files = { inherit golden; };
    };
}
