# All sandboxed checks of one plan, in one evaluation: from a request in JSON to derivations, in its order.
{ request }:
let
  asked = builtins.fromJSON (builtins.readFile request);
  inStore = path: builtins.substring 0 (builtins.stringLength builtins.storeDir) path == builtins.storeDir;
  checks = import ./default.nix {
    inherit (asked) system nonce;
    rei = if inStore asked.rei then builtins.storePath asked.rei else builtins.path { path = asked.rei; name = "rei"; };
  };
  # A golden run that has changed since the plan was made is refused by its hash.
  run = fact: builtins.path {
    inherit (fact) path sha256;
    name = "${fact.name}.golden.jsonl";
    recursive = false;
  };
  given = path: if path == null then null else builtins.storePath path;
  check = { spec, inputs }: checks.${spec.kind} (
    { inherit spec; }
    // (if inputs.candidate == null then { } else { candidate = given inputs.candidate; })
    // (if inputs.active == null then { } else { active = given inputs.active; })
    // (if inputs.golden == null then { } else { golden = run inputs.golden; })
  );
in
map (step:
  let drv = check step; in {
    drv = builtins.unsafeDiscardStringContext drv.drvPath;
    out = builtins.unsafeDiscardStringContext drv.outPath;
  }
) asked.checks
