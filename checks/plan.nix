# All sandboxed checks of one plan, in one evaluation. The inputs are `checks`, the expressions beside this file, and a request;
# the result is a set of derivations, each named by its number.
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
  # Nix refuses, by its hash, a golden run that has changed since the plan was made.
  run =
    fact:
    builtins.path {
      inherit (fact) path sha256;
      name = "${fact.name}.golden.jsonl";
      recursive = false;
    };
  # A check gets only the inputs that it uses.
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
