# The options of one instance.
{
  lib,
  pkgs,
  format,
  package, # of all instances
}:
{ name, config, ... }:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config;
  unit = "rei-${name}";
  # The directory in which systemd puts credentials: only the unit's user can read it.
  credentials = "/run/credentials/${unit}.service";
  # Nix copies a path literal into the store, but not a string.
  pathsOf = user: lib.attrNames (lib.filterAttrs (_: credential: user credential) cfg.credentials);
in
{
  options = {
    enable = lib.mkEnableOption "this instance of rei" // {
      default = true;
    };

    package = mkOption {
      type = types.package;
      default = package;
      defaultText = lib.literalExpression "config.services.rei.package";
      description = "The rei package of this instance.";
    };

    settings = mkOption {
      type = import ./settings.nix { inherit lib format; };
      default = { };
      description = ''
        The content of rei.toml. rei itself checks the file when the system is built. `rei init` writes a file with every key,
        its default and its explanation.
      '';
    };

    golden = mkOption {
      type = types.listOf types.path;
      default = [ ];
      example = lib.literalExpression "[ ./golden ]";
      description = ''
        Directories of golden runs: recorded exchanges with known-good answers that each candidate must repeat. They are
        copied to the store and checked when the system is built.
      '';
    };

    blueprints = mkOption {
      type = types.attrsOf types.path;
      default = { };
      example = lib.literalExpression "{ mend = ./mend.yaml; }";
      description = ''
        Blueprints by name, for `settings.blueprints`. rei has the blueprints `repair` and `upgrade`; a blueprint of the
        same name here replaces rei's own. They are copied to the store and checked when the system is built.
      '';
    };

    credentials = mkOption {
      default = { };
      description = ''
        Secrets. They must not stand in the settings, because every user can read those in the store. systemd gives each file to
        the unit (LoadCredential), as {file}`/run/credentials/rei-NAME.service/CREDENTIAL`. Name here who may read it.
      '';
      example = {
        model-key = {
          file = "/etc/secrets/model-key";
          agents = [ "fixer" ];
        };
      };
      type = types.attrsOf (
        types.submodule {
          options = {
            file = mkOption {
              type = types.str;
              description = "The file with the secret: an absolute path outside the store, readable by root.";
              example = "/etc/secrets/model-key";
            };
            runtime = mkOption {
              type = types.bool;
              default = false;
              description = "Whether the runtime's instances may read it.";
            };
            agents = mkOption {
              type = types.listOf types.str;
              default = [ ];
              description = "The agents of `settings.agents` that may read it.";
              example = [ "fixer" ];
            };
          };
        }
      );
    };

    user = mkOption {
      type = types.str;
      default = unit;
      defaultText = "rei-NAME";
      description = ''
        The user of rei, its instances and its agents. If the source is a path, this user must own it. The module creates the user
        `rei-NAME`; it does not create another user that you name here.
      '';
    };

    group = mkOption {
      type = types.str;
      default = unit;
      defaultText = "rei-NAME";
      description = "The group of the operators: only its members and root may use the control socket.";
    };

    operators = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "ada" ];
      description = "Users that become members of the operators' group: they can approve, reject, roll back and pause.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the ports of `settings.runtime.listen`, except those with a loopback address.";
    };

    privilegedPorts = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether rei may listen on ports below 1024. Its instances get the capability too (CAP_NET_BIND_SERVICE).
      '';
    };
  };

  config.settings = {
    runtime.name = mkDefault name;
    state = {
      directory = mkDefault "/var/lib/rei/${name}";
      sockets = mkDefault "/run/rei/${name}";
      operators = mkDefault cfg.group;
    };
    validation.golden = lib.mkIf (cfg.golden != [ ]) (map (directory: "${directory}") cfg.golden);
    blueprints.directory = lib.mkIf (cfg.blueprints != { }) (
      mkDefault "${pkgs.linkFarm "${unit}-blueprints" (
        lib.mapAttrs' (blueprint: file: lib.nameValuePair "${blueprint}.yaml" "${file}") cfg.blueprints
      )}"
    );
    isolation.read =
      let
        theirs = pathsOf (credential: credential.runtime);
      in
      lib.mkIf (theirs != [ ]) (map (credential: "${credentials}/${credential}") theirs);
    agents =
      let
        readers = lib.unique (
          lib.concatMap (credential: credential.agents) (lib.attrValues cfg.credentials)
        );
      in
      lib.genAttrs readers (agent: {
        read = map (credential: "${credentials}/${credential}") (
          pathsOf (credential: lib.elem agent credential.agents)
        );
      });
  };
}
