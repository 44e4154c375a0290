# A flake in a directory of a tree, for a Nix whose `path:` references take no `dir`. As in such a Nix's own
# call-flake.nix, the inputs are what `flake.lock` says; what it does not say is an error.
{ tree, dir }:
let
  source = builtins.fetchTree tree;
  root = "${source.outPath}/${dir}";
  lock =
    if builtins.pathExists "${root}/flake.lock"
    then builtins.fromJSON (builtins.readFile "${root}/flake.lock")
    else { root = "root"; nodes.root = { }; };

  # An input is the name of a node, or a path of inputs from the root.
  resolve = input: if builtins.isList input then follow lock.root input else input;
  follow = node: path:
    if path == [ ] then node
    else follow (resolve lock.nodes.${node}.inputs.${builtins.head path}) (builtins.tail path);

  nodes = builtins.mapAttrs (key: node:
    let
      isRoot = key == lock.root;
      fetched = if isRoot then source else builtins.fetchTree (builtins.removeAttrs node.locked [ "dir" ]);
      inside = if isRoot then dir else node.locked.dir or "";
      path = fetched.outPath + (if inside == "" then "" else "/${inside}");
      flake =
        if builtins.pathExists "${path}/flake.nix" then import "${path}/flake.nix"
        else throw "path '${path}/flake.nix' does not exist";
      locked = builtins.mapAttrs (name: input: nodes.${resolve input}) (node.inputs or { });
      wanted = builtins.attrNames (removeAttrs (flake.inputs or { } // builtins.functionArgs flake.outputs) [ "self" ]);
      missing = builtins.filter (name: !(locked ? ${name})) wanted;
      inputs =
        if missing == [ ] then locked
        else throw "cannot update unlocked flake input '${builtins.head missing}' in pure mode";
      outputs = flake.outputs (inputs // { self = result; });
      # Since 2.14 a flake is where its flake.nix is.
      place = if builtins.compareVersions builtins.nixVersion "2.14" < 0 then { } else { outPath = path; };
      result = outputs // fetched // place // { inherit inputs outputs; sourceInfo = fetched; };
    in if node.flake or true then result else fetched
  ) lock.nodes;
in nodes.${lock.root}
