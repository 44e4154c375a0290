# The keys of rei.toml, as options. The keys that src/config/options.toml describes have types; other keys are allowed. No
# option has a default here: null leaves a key out, and rei has its own defaults.
{ lib, format }:
let
  inherit (lib) mkOption types;

  described = builtins.fromTOML (builtins.readFile ../src/config/options.toml);

  # The types that a key can have.
  typeOf = key: {
    string = types.str;
    name = types.strMatching "[A-Za-z0-9_][A-Za-z0-9_-]*";
    path = types.path;
    # The formats that rei reads: src/config/{duration,value}.rs.
    duration = types.strMatching "[0-9]+ *(ms|s|m|h|d)" // {
      description = ''duration ("250ms", "1s", "5m", "2h", "1d")'';
    };
    size = types.strMatching "[0-9]+ *(B|KiB|MiB|GiB|TiB)" // {
      description = ''size ("64MiB")'';
    };
    signal = types.strMatching "(SIG)?[A-Z0-9]+";
    share = types.numbers.between 0 1;
    count = types.ints.positive;
    number = types.ints.unsigned;
    switch = types.bool;
    choice = types.enum key.values;
    strings = types.listOf types.str;
    ports = types.listOf types.port;
    # A program inside the package, which must be named, and any program.
    command = types.nonEmptyListOf types.str;
    program = types.listOf types.str;
    # A directory, or a program inside the package.
    fixture = types.either types.str (types.nonEmptyListOf types.str);
    variables = types.attrsOf types.str;
    # One for all, or one for each class.
    names = types.either types.str (types.attrsOf types.str);
    # Keys of its own, and a list of such.
    part = table (optionsOf key.name);
    tables = types.listOf (table (optionsOf key.name));
  };

  # A table of keys: the options name some of them, and other keys are allowed.
  table =
    options:
    types.submodule {
      freeformType = format.type;
      inherit options;
    };

  # `runtime` and `poll` of `runtime.poll`.
  parentOf = key: lib.concatStringsSep "." (lib.init (lib.splitString "." key.name));
  nameOf = key: lib.last (lib.splitString "." key.name);
  keysOf = parent: lib.filter (key: parentOf key == parent) described.key;

  optionsOf =
    parent:
    let
      there = lib.filter (key: key.module or "" != false) (keysOf parent);
    in
    lib.listToAttrs (map (key: lib.nameValuePair (nameOf key) (option key)) there);

  # What a key may look like: a part is shown with all of its keys.
  exampleOf =
    key:
    if key.type == "part" then
      lib.listToAttrs (map (inner: lib.nameValuePair (nameOf inner) (exampleOf inner)) (keysOf key.name))
    else
      key.example or key.default;

  option =
    key:
    let
      type = (typeOf key).${key.type};
      isSet = key.required or false || key.always or false;
      own =
        if key ? default && key.type != "part" then
          "rei's own default is `${builtins.toJSON key.default}`."
        else
          null;
    in
    mkOption (
      {
        type = if isSet then type else types.nullOr type;
        description = lib.concatStringsSep " " (
          lib.filter (text: text != null) [
            key.doc
            own
            (key.module or null)
          ]
        );
        example = exampleOf key;
      }
      // lib.optionalAttrs (!isSet) { default = null; }
      // lib.optionalAttrs (isSet && !(key.required or false) && key.type == "strings") { default = [ ]; }
    );

  # Of most sections the keys are named; of some the operator gives the names of the tables or values in them.
  section =
    it:
    mkOption (
      {
        type =
          if it ? type then
            types.attrsOf (typeOf (it // { name = "${it.name}.NAME"; })).${it.type}
          else
            table (optionsOf it.name);
        default = { };
        description = it.doc;
      }
      // lib.optionalAttrs (it ? example) { inherit (it) example; }
    );
in
table (lib.listToAttrs (map (it: lib.nameValuePair it.name (section it)) described.section))
