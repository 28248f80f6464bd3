//! `SELinux` state, from `/sys/fs/selinux` and `/etc/selinux/config`, documented in
//! `selinux_config(5)`.
//!
//! The configuration is applied only at boot, so the two modes can differ.

use crate::{
    collector::{Collector, NoFlags},
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{Snapshot, Text},
};

metrics! {
    /// SELinux is enabled, 1 is true, 0 is false.
    ENABLED: Gauge = "node_selinux_enabled" [];
    /// Configured SELinux enforcement mode: enforcing (1), permissive (0) or disabled (-1).
    CONFIG_MODE: Gauge = "node_selinux_config_mode" [];
    /// Current SELinux enforcement mode: enforcing (1) or permissive (0).
    CURRENT_MODE: Gauge = "node_selinux_current_mode" [];
}

#[derive(Debug)]
pub(super) struct SeLinux;

impl Collector for SeLinux {
    const NAME: &'static str = "selinux";
    const ABOUT: &'static str = "SELinux mode";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let enforce = match snapshot.read_sys("fs/selinux/enforce") {
            Ok(enforce) => Some(enforce),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        let Some(enforce) = enforce.filter(|_| has_policy(snapshot)) else {
            out.add(&ENABLED, [], false);
            return Ok(out);
        };
        out.add(&ENABLED, [], true);
        if let Some(mode) = out.ok_or_skip(enforce.parse_number::<u64>()) {
            out.add(&CURRENT_MODE, [], mode);
        }
        let config = snapshot.read_rootfs("etc/selinux/config");
        if let Some(Some(mode)) = out.ok_or_skip(config.and_then(|config| config_mode(&config))) {
            out.add(&CONFIG_MODE, [], mode);
        }
        Ok(out)
    }
}

/// Whether a policy is loaded; before that, every process has the label `kernel`.
fn has_policy(snapshot: &Snapshot) -> bool {
    snapshot
        .read_proc("self/attr/current")
        .map_or(true, |label| {
            label.body().trim_end_matches(['\0', '\n']) != "kernel"
        })
}

/// Parses the `SELINUX=` line; `None` if there is no such line.
fn config_mode(config: &Text) -> Result<Option<i64>> {
    for line in config.lines() {
        let Some(mode) = line.rest().strip_prefix("SELINUX=") else {
            continue;
        };
        let mode = mode.trim_matches('"').to_ascii_lowercase();
        return match mode.as_str() {
            "enforcing" => Ok(Some(1)),
            "permissive" => Ok(Some(0)),
            "disabled" => Ok(Some(-1)),
            _ => Err(line.error(format_args!("unknown mode {mode:?}"))),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::MachineFixture;

    fn lines(machine: &MachineFixture) -> Vec<String> {
        SeLinux.collect(&machine.snapshot()).unwrap().lines()
    }

    #[test]
    fn config_mode_may_differ_from_current_mode() {
        let machine = MachineFixture::new("selinux");
        assert_eq!(lines(&machine), ["node_selinux_enabled 0"]);
        machine.write("sys/fs/selinux/enforce", "0");
        machine.write("root/etc/selinux/config", "SELINUX=enforcing\n");
        let enabled = [
            "node_selinux_enabled 1",
            "node_selinux_current_mode 0",
            "node_selinux_config_mode 1",
        ];
        assert_eq!(lines(&machine), enabled);
        machine.write("proc/self/attr/current", "system_u:system_r:init_t:s0\0");
        assert_eq!(lines(&machine), enabled);
    }

    #[test]
    fn disabled_without_loaded_policy() {
        let machine = MachineFixture::new("selinux-policy");
        machine.write("sys/fs/selinux/enforce", "1");
        machine.write("proc/self/attr/current", "kernel\0");
        assert_eq!(lines(&machine), ["node_selinux_enabled 0"]);
    }

    #[test]
    fn parses_config_like_libselinux() {
        let mode = |text| config_mode(&Text::from(text)).map_err(|e| e.to_string());
        assert_eq!(
            mode("# SELINUX=disabled\n SELINUX=Permissive\n"),
            Ok(Some(0))
        );
        assert_eq!(
            mode("SELINUXTYPE=targeted\nSELINUX=disabled\n"),
            Ok(Some(-1))
        );
        assert_eq!(mode("SELINUXTYPE=targeted\n"), Ok(None));
        let error = mode("\nSELINUX=on\n").unwrap_err();
        assert_eq!(error, r#"test:2: unknown mode "on""#);
    }
}
