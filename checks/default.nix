# Sandboxed checks of a runtime. The builder is the rei program itself, so the checks need no nixpkgs and no shell.
#
# Each check is a derivation whose output contains verdict.json; it fails to build only if the check could not run. `candidate`
# and `active` are store paths or packages, `golden` is a golden run, `bodies` is the directory of its large bodies, `spec` says how to start the runtime (`rei check --json`
# prints it for a rei.toml). With another `nonce` a check runs again; otherwise Nix would repeat an earlier verdict.
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
  # The large bodies of a golden run, if it has some.
  beside = bodies: if bodies == null then { } else { inherit bodies; };
  # The files that an instance finds in its state directory, if there are any.
  beginning = state: if state == null then { } else { inherit state; };
in
# One function for each kind of check, named by its kind.
{
  # Passes if a sandboxed build works on this machine.
  control = { spec }: check { inherit spec; };
  # Passes if the candidate becomes ready in time, stays in the foreground, and stops on its stop signal in time.
  boot =
    {
      spec,
      candidate,
      state ? null,
    }:
    check {
      inherit spec;
      versions = { inherit candidate; };
      files = beginning state;
    };
  # Passes if the candidate answers a golden run as recorded, except for differences between two runs of Active.
  golden =
    {
      spec,
      candidate,
      active,
      golden,
      bodies ? null,
      state ? null,
    }:
    check {
      inherit spec;
      versions = { inherit candidate active; };
      files = {
        inherit golden;
      }
      // beside bodies
      // beginning state;
    };
  # Finds which exchanges of a recording two fresh instances of Active repeat, and what may differ in them. The output has the
  # qualified run, too.
  qualify =
    {
      spec,
      active,
      golden,
      bodies ? null,
      state ? null,
    }:
    check {
      inherit spec;
      versions = { inherit active; };
      files = {
        inherit golden;
      }
      // beside bodies
      // beginning state;
    };
  # Passes if the exchanges that fail on Active pass on the candidate. Without a candidate it only tests if they fail on Active.
  reproduction =
    {
      spec,
      active,
      golden,
      bodies ? null,
      candidate ? null,
      state ? null,
    }:
    check {
      inherit spec;
      versions = {
        inherit active;
      }
      // (if candidate == null then { } else { inherit candidate; });
      files = {
        inherit golden;
      }
      // beside bodies
      // beginning state;
    };
}
