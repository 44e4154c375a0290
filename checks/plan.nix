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
  # An input is a store path, a directory or a golden run. Nix refuses, by its hash, a golden run that has changed since the
  # plan was made; the run has the hashes of its large bodies, and the judge refuses one that has changed.
  given =
    input:
    if builtins.isString input then
      builtins.storePath input
    else if input ? directory then
      builtins.path {
        path = input.directory;
        name = "directory";
      }
    else
      builtins.path {
        inherit (input) path sha256;
        name = "${input.name}.golden.jsonl";
        recursive = false;
      };
  check =
    { spec, inputs }:
    makers.${spec.kind} ({ inherit spec; } // builtins.mapAttrs (_: given) inputs);
  numbered = n: {
    name = toString n;
    value = check (builtins.elemAt asked.checks n);
  };
in
builtins.listToAttrs (builtins.genList numbered (builtins.length asked.checks))
