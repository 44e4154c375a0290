# rei as a NixOS service: `services.rei.instances.<name>`, one for each supervised runtime.
#
# | file | its one job |
# |---|---|
# | rei.nix | turns instances into units, users, files and ports |
# | instance.nix | the options of one instance |
# | settings.nix | the keys of rei.toml as options |
# | assertions.nix | refuses wrong configurations, and says what to do |
# | listen.nix | parses listeners |
# | unit.nix, unit.toml | the systemd unit, which other distributions use too |
#
# The module needs no flake; the flake's `nixosModules.rei` sets the package.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.rei;
  enabled = lib.filterAttrs (_: instance: instance.enable) cfg.instances;
  format = pkgs.formats.toml { };
  listen = import ./listen.nix { inherit lib; };
  toUnit = import ./unit.nix { inherit lib; };
  forEach = make: lib.mkMerge (lib.mapAttrsToList make enabled);

  # TOML has no null: keys that are null are left out.
  written =
    value:
    if lib.isDerivation value then
      "${value}"
    else if lib.isAttrs value then
      lib.mapAttrs (_: written) (lib.filterAttrs (_: inner: inner != null) value)
    else if lib.isList value then
      map written value
    else
      value;

  # rei.toml, after rei has checked it: a system with a wrong file is not built.
  checked =
    name: instance:
    let
      sections = lib.filterAttrs (_: section: section != { }) (written instance.settings);
      file = format.generate "rei-${name}-unchecked.toml" sections;
    in
    pkgs.runCommand "rei-${name}.toml" { } (
      lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
        ${lib.getExe instance.package} check --file-only --config ${file}
      ''
      + ''
        cp ${file} $out
      ''
    );

  # The seconds of a duration in rei.toml.
  seconds =
    text:
    let
      parts = builtins.match "([0-9]+) *(ms|s|m|h|d)" text;
      unit = {
        ms = 1;
        s = 1000;
        m = 60 * 1000;
        h = 3600 * 1000;
        d = 24 * 3600 * 1000;
      };
    in
    lib.toIntBase10 (builtins.elemAt parts 0) * unit.${builtins.elemAt parts 1} / 1000;
  # The seconds that rei itself gets to stop, after the instances. The default in unit.toml is this plus 10 s for the instances.
  endSeconds = 50;

  service =
    name: instance:
    let
      inherit (instance) settings;
      files = "/etc/rei/${name}";
      own = [
        "/var/lib/rei/${name}"
        "/run/rei/${name}"
      ];
      elsewhere = lib.subtractLists own [
        settings.state.directory
        settings.state.sockets
      ];
      unit = toUnit {
        inherit name;
        inherit (instance) user;
        operators = instance.group;
        rei = "${files}/rei";
        config = "${files}/rei.toml";
      };
    in
    unit
    // {
      # The machine's own Nix fits its daemon.
      path = [
        config.nix.package
        pkgs.gitMinimal
      ];
      # A switch of the system never stops the unit: a re-exec loads every change. With `restartIfChanged = false` and
      # `reloadTriggers`, a new rei would wait for the next boot if anything else in the unit changes too.
      reloadIfChanged = true;
      restartTriggers = [
        (checked name instance)
        instance.package
      ];
      serviceConfig = lib.mkMerge [
        unit.serviceConfig
        (lib.mkIf (settings.runtime.stop_timeout != null) {
          TimeoutStopSec = seconds settings.runtime.stop_timeout + endSeconds;
        })
        (lib.mkIf instance.privilegedPorts {
          CapabilityBoundingSet = "CAP_NET_BIND_SERVICE";
          AmbientCapabilities = "CAP_NET_BIND_SERVICE";
        })
        (lib.mkIf (elsewhere != [ ] || settings.isolation.write != null) {
          ReadWritePaths =
            elsewhere ++ lib.optionals (settings.isolation.write != null) settings.isolation.write;
        })
        (lib.mkIf (instance.credentials != { }) {
          LoadCredential = lib.mapAttrsToList (
            credential: { file, ... }: "${credential}:${file}"
          ) instance.credentials;
        })
      ];
    };
in
{
  options.services.rei = {
    package = lib.mkOption {
      type = lib.types.package;
      defaultText = lib.literalMD "the package of the flake that has the module";
      description = ''
        The rei package of all instances. Without the flake you must set it:
        `pkgs.callPackage ./nix/wrapper.nix { rei-unwrapped = pkgs.callPackage ./nix/package.nix { }; }` makes it from the
        source of rei.
      '';
    };

    instances = lib.mkOption {
      type = lib.types.attrsOf (
        lib.types.submodule (
          import ./instance.nix {
            inherit lib pkgs format;
            inherit (cfg) package;
          }
        )
      );
      default = { };
      description = "The supervised runtimes. Each has its own rei: the unit `rei-NAME`.";
      example = lib.literalExpression ''
        {
          greeter = {
            settings.runtime = {
              source = "https://github.com/example/greeter";
              command = [ "bin/greeter" ];
              listen = [ "http=0.0.0.0:8080" ];
            };
            settings.health.http.path = "/healthz";
            operators = [ "ada" ];
            openFirewall = true;
          };
        }
      '';
    };
  };

  config = lib.mkMerge [
    (import ./assertions.nix { inherit lib config; })
    (lib.mkIf (enabled != { }) {
      systemd.services = lib.mapAttrs' (
        name: instance: lib.nameValuePair "rei-${name}" (service name instance)
      ) enabled;

      # Paths that stay the same: a re-exec finds the new program and the new file at the old path.
      environment.etc = forEach (
        name: instance: {
          "rei/${name}/rei.toml".source = checked name instance;
          "rei/${name}/rei".source = lib.getExe instance.package;
        }
      );
      environment.systemPackages = lib.unique (
        lib.mapAttrsToList (_: instance: instance.package) enabled
      );

      users.users = forEach (
        name: instance: {
          ${instance.user} = lib.mkIf (instance.user == "rei-${name}") {
            isSystemUser = true;
            inherit (instance) group;
            home = "/var/lib/rei/${name}";
            description = "rei, supervisor of ${name}";
          };
        }
      );
      users.groups = forEach (name: instance: { ${instance.group}.members = instance.operators; });

      # systemd makes only the unit's own directories; other directories must exist before the unit starts.
      systemd.tmpfiles.settings = forEach (
        name: instance: {
          "10-rei-${name}" =
            let
              inherit (instance) user group settings;
              directory = mode: { d = { inherit mode user group; }; };
            in
            lib.optionalAttrs (settings.state.directory != "/var/lib/rei/${name}") {
              ${settings.state.directory} = directory "0700";
            }
            // lib.optionalAttrs (settings.state.sockets != "/run/rei/${name}") {
              ${settings.state.sockets} = directory "0755";
            };
        }
      );

      networking.firewall = forEach (
        _: instance:
        lib.mkIf instance.openFirewall {
          allowedTCPPorts = listen.openPorts "tcp" instance.settings.runtime.listen;
          allowedUDPPorts = listen.openPorts "udp" instance.settings.runtime.listen;
        }
      );

      # If a listener is closed, the connections in its queue move to another listener instead of being reset.
      boot.kernel.sysctl."net.ipv4.tcp_migrate_req" = lib.mkDefault 1;
    })
  ];
}
