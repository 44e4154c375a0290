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
  # Where systemd puts credentials: the unit's user alone can read there.
  credentials = "/run/credentials/${unit}.service";
  # Nix copies what is a path literal; a string is left where it is.
  pathsOf = user: lib.attrNames (lib.filterAttrs (_: credential: user credential) cfg.credentials);
in
{
  options = {
    enable = lib.mkEnableOption "this rei" // {
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
        What stands in rei.toml. The file is checked by rei itself when the system is built. Its pages and defaults:
        `rei init` writes them out.
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
        Blueprints by name, for `settings.blueprints`. `repair` and `upgrade` come with rei; one of that name here is taken
        in their place. They are copied to the store and checked when the system is built.
      '';
    };

    credentials = mkOption {
      default = { };
      description = ''
        Secrets, which must not stand in the settings, as those are in the store. systemd hands each file over (LoadCredential);
        it is then at {file}`/run/credentials/rei-NAME.service/CREDENTIAL`, and who may read it is named here.
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
        The user that rei, its instances and agents run as, and whose the source must be if it is a path. It is made unless
        another one is named.
      '';
    };

    group = mkOption {
      type = types.str;
      default = unit;
      defaultText = "rei-NAME";
      description = "The group whose members are the operators: they alone, and root, may use the control socket.";
    };

    operators = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "ada" ];
      description = "Users who become members of the operators' group: they approve, reject, roll back, pause.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the ports of `settings.runtime.listen`, except those of this machine alone.";
    };

    privilegedPorts = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether rei may listen on ports below 1024. Its instances have the capability as well (CAP_NET_BIND_SERVICE).
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
