# The few functions of nixpkgs' library that the flake uses, with the same names and results.
rec {
  inherit (builtins)
    attrNames
    concatStringsSep
    elem
    mapAttrs
    ;

  genAttrs =
    names: make:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = make name;
      }) names
    );
  optionalAttrs = condition: set: if condition then set else { };
  optional = condition: value: if condition then [ value ] else [ ];
  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
  hasSuffix =
    suffix: text:
    let
      at = builtins.stringLength text - builtins.stringLength suffix;
    in
    at >= 0 && builtins.substring at (-1) text == suffix;
  mapAttrs' = make: set: builtins.listToAttrs (map (name: make name set.${name}) (attrNames set));
  nameValuePair = name: value: { inherit name value; };
  filterAttrs =
    keep: set: removeAttrs set (builtins.filter (name: !keep name set.${name}) (attrNames set));
  removeSuffix =
    suffix: text:
    if hasSuffix suffix text then
      builtins.substring 0 (builtins.stringLength text - builtins.stringLength suffix) text
    else
      text;

  importTOML = file: builtins.fromTOML (builtins.readFile file);
  getExe = package: "${package}/bin/${package.meta.mainProgram}";
  getOutput = output: package: package.${output} or package;
  makeBinPath = packages: concatStringsSep ":" (map (package: "${package}/bin") packages);
  licenses.mit.spdxId = "MIT";

  # A set of files is the list of its paths.
  fileset = {
    unions = builtins.concatMap (part: if builtins.isList part then part else [ part ]);
    maybeMissing = path: optional (builtins.pathExists path) path;
    toSource =
      { root, fileset }:
      let
        wanted = map toString fileset;
        isBelow = path: above: path == above || hasPrefix "${above}/" path;
      in
      builtins.path {
        name = "source";
        path = root;
        filter = path: _: builtins.any (one: isBelow path one || isBelow one path) wanted;
      };
  };
}
