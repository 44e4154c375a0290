# All sandboxed checks of one plan, in one evaluation: from `checks`, the expressions beside this file, and a request to
# derivations, each under its number.
checks: asked:
let
  inherit (asked) system nonce;
  inStore =
    path: builtins.substring 0 (builtins.stringLength builtins.storeDir) path == builtins.storeDir;
  rei =
    if inStore asked.rei then
      builtins.storePath asked.rei
    else
      builtins.path {
        path = asked.rei;
        name = "rei";
      };
  makers = checks { inherit rei system nonce; };
  # A golden run that has changed since the plan was made is refused by its hash.
  run =
    fact:
    builtins.path {
      inherit (fact) path sha256;
      name = "${fact.name}.golden.jsonl";
      recursive = false;
    };
  # What a check has no use for is not given to it.
  given =
    name: make: value:
    if value == null then { } else { ${name} = make value; };
  check =
    { spec, inputs }:
    makers.${spec.kind} (
      {
        inherit spec;
      }
      // given "candidate" builtins.storePath inputs.candidate
      // given "active" builtins.storePath inputs.active
      // given "golden" run inputs.golden
    );
  numbered = n: {
    name = toString n;
    value = check (builtins.elemAt asked.checks n);
  };
in
builtins.listToAttrs (builtins.genList numbered (builtins.length asked.checks))
