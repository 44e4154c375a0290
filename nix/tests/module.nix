# Tests the module with the module system of NixOS: a right configuration evaluates completely and without a warning, and each wrong
# configuration is refused with a message that says what to do. Only the resulting rei.toml is built.
{
  nixpkgs,
  pkgs,
  module,
}:
let
  inherit (nixpkgs) lib;

  system =
    instances: more:
    lib.nixosSystem {
      modules = [
        module
        more
        {
          services.rei.instances = instances;
          nix.settings.experimental-features = [
            "nix-command"
            "flakes"
          ];
          nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
          boot.loader.grub.enable = false;
          fileSystems."/".fsType = "tmpfs";
          system.stateVersion = lib.trivial.release;
        }
      ];
    };
  runtime = port: {
    settings.runtime = {
      source = "https://github.com/example/greeter";
      command = [ "bin/greeter" ];
      listen = [ "http=0.0.0.0:${toString port}" ];
    };
  };
  with' = change: { greeter = lib.recursiveUpdate (runtime 8080) change; };
  two = change: with' { } // { other = lib.recursiveUpdate (runtime 8081) change; };

  full =
    (system (
      with' {
        settings = {
          runtime.stop_timeout = "30s";
          runtime.stop_signal = "SIGQUIT";
          runtime.stop_mode = "mixed";
          health.http.path = "/healthz";
          health.tcp = { };
          incidents.latency.p99 = "250ms";
          promotion.canary = [
            {
              share = 0.05;
              for = "30s";
            }
          ];
          agents.fixer.command = [ "/run/current-system/sw/bin/true" ];
        };
        credentials.key = {
          file = "/etc/secrets/key";
          runtime = true;
          agents = [ "fixer" ];
        };
        operators = [ "ada" ];
        openFirewall = true;
        privilegedPorts = true;
      }
      // {
        other = runtime 8081;
      }
    ) { users.users.ada.isNormalUser = true; }).config;
  unit = full.systemd.services.rei-greeter.serviceConfig;
  facts = {
    "assertions hold" = lib.all (a: a.assertion) full.assertions;
    "there are no warnings" = full.warnings == [ ];
    "the unit is notify with a watchdog" = unit.Type == "notify" && unit ? WatchdogSec;
    "systemd waits long enough for a stop" = unit.TimeoutStopSec == 80;
    "instances outlive rei" = unit.KillMode == "process" && unit.FileDescriptorStoreMax > 0;
    "a switch of the system is a reload" = full.systemd.services.rei-greeter.reloadIfChanged;
    "openFirewall opens the ports" = full.networking.firewall.allowedTCPPorts == [ 8080 ];
    "operators are members of the group" = full.users.groups.rei-greeter.members == [ "ada" ];
    "the named readers can read a secret" =
      let
        path = "/run/credentials/rei-greeter.service/key";
        inherit (full.services.rei.instances.greeter) settings;
      in
      settings.isolation.read == [ path ] && settings.agents.fixer.read == [ path ];
    "waiting connections move to another listener" = full.boot.kernel.sysctl."net.ipv4.tcp_migrate_req" == 1;
  };
  wrong = lib.attrNames (lib.filterAttrs (_: holds: !holds) facts);

  # Wrong configurations, and a part of the message that refuses each.
  refused = [
    {
      given = two { settings.runtime.listen = [ "http=127.0.0.1:8080" ]; };
      says = "both listen on 0.0.0.0:8080";
    }
    {
      given = two { settings.state.directory = "/var/lib/rei/greeter"; };
      says = "share the state directory";
    }
    {
      given = two { user = "rei-greeter"; };
      says = "run as the same user";
    }
    {
      given = with' { settings.runtime.listen = [ "8080" ]; };
      says = "write name=address";
    }
    {
      given = with' { settings.runtime.listen = [ "http=0.0.0.0:80" ]; };
      says = "privilegedPorts = true";
    }
    {
      given = with' { settings.runtime.listen = [ "ipc=unix:/run/x.sock" ]; };
      says = "put it below /run/rei/greeter";
    }
    {
      given = with' { settings.runtime.source = "."; };
      says = "must be an absolute path or a URL";
    }
    {
      given = with' { settings.runtime.source = "/home/ada/greeter"; };
      says = "ProtectHome";
    }
    {
      given = with' { settings.isolation.user = "www"; };
      says = "rei is not root here";
    }
    {
      given = with' { credentials.key.file = "${builtins.storeDir}/key"; };
      says = "outside the store";
    }
    {
      given = with' {
        credentials.key = {
          file = "/x";
          agents = [ "nobody" ];
        };
      };
      says = "not in settings.agents";
    }
    {
      given = with' { };
      more.nix.settings.sandbox = lib.mkForce false;
      says = "Nix's sandbox";
    }
    {
      given = with' { };
      more.nix.settings.allowed-users = lib.mkForce [ "root" ];
      says = "nix.settings.allowed-users";
    }
  ];
  missed = lib.filter (
    case:
    let
      inherit ((system case.given (case.more or { })).config) assertions;
      said = map (a: a.message) (lib.filter (a: !a.assertion) assertions);
    in
    !lib.any (lib.hasInfix case.says) said
  ) refused;

  # Settings with a value of the wrong type, which must not evaluate.
  untyped =
    lib.filter
      (
        settings:
        (builtins.tryEval
          (system (with' { inherit settings; }) { }).config.systemd.services.rei-greeter.serviceConfig.Type
        ).success
        && (builtins.tryEval (
          builtins.deepSeq
            (system (with' { inherit settings; }) { }).config.services.rei.instances.greeter.settings
            true
        )).success
      )
      [
        { runtime.stop_timeout = 30; }
        { runtime.stop_mode = "process"; }
        { promotion.mode = "sometimes"; }
        {
          promotion.canary = [
            {
              share = 2;
              for = "1s";
            }
          ];
        }
        { runtime.listen = "http=127.0.0.1:80"; }
      ];

  problems =
    map (fact: "does not hold: ${fact}") wrong
    ++ map (case: "not refused: ${case.says}") missed
    ++ map (settings: "accepted: ${builtins.toJSON settings}") untyped;
in
if problems != [ ] then
  throw "the module: ${lib.concatStringsSep "; " problems}"
else
  # The system depends on rei.toml; rei reads and checks it here.
  pkgs.runCommand "rei-module"
    {
      checked = full.environment.etc."rei/greeter/rei.toml".source;
    }
    ''
      cat "$checked" > "$out"
    ''
