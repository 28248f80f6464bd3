//! Domains, identified by the names of their cgroups: `machine-qemu\x2d7\x2dweb.scope` if
//! systemd-machined creates them, and `qemu-7-web.libvirt-qemu` if libvirt does.
//!
//! The name in the path is truncated to 64 characters and lacks characters that are invalid in a
//! host name. The ID of the run leads to the full name, if libvirt reported it.

use super::super::libvirt::RunningDomain;

/// libvirt drivers that create cgroups for their domains. For other prefixes the path proves
/// nothing: `systemd-nspawn` containers have such scopes too.
const LIBVIRT_DRIVERS: [&str; 3] = ["qemu", "lxc", "ch"];

/// The domain in a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadDomain {
    /// libvirt's ID of this run.
    pub id: u32,
    /// Its name; the part in the path if libvirt did not report it.
    pub name: String,
    /// Its UUID, if libvirt reported it.
    pub uuid: Option<String>,
}

impl WorkloadDomain {
    /// Parses a cgroup path.
    pub(super) fn from_cgroup_path(path: &str) -> Option<Self> {
        let (_, group) = path.rsplit_once('/')?;
        let machine_name = match group.strip_suffix(".scope") {
            Some(scope) => unescape_systemd(scope.strip_prefix("machine-")?),
            None => group.rsplit_once(".libvirt-")?.0.to_owned(),
        };
        let (driver, rest) = machine_name.split_once('-')?;
        let (id, name) = rest.split_once('-').unwrap_or((rest, ""));
        LIBVIRT_DRIVERS.contains(&driver).then_some(())?;
        Some(Self {
            id: id.parse().ok()?,
            name: name.to_owned(),
            uuid: None,
        })
    }

    /// Adds the identity that libvirt reports.
    pub(super) fn with_libvirt_identity(self, domains: &[RunningDomain]) -> Self {
        match domains.iter().find(|domain| self.matches(domain)) {
            Some(domain) => Self {
                id: self.id,
                name: domain.name.clone(),
                uuid: Some(domain.uuid.clone()),
            },
            None => self,
        }
    }

    /// Whether it is this domain. The ID alone is not sufficient: cgroups may be left over, and a
    /// libvirt in a container has its own IDs.
    fn matches(&self, domain: &RunningDomain) -> bool {
        let mut full_name = alphanumeric_chars(&domain.name);
        self.id == domain.id && alphanumeric_chars(&self.name).all(|c| full_name.next() == Some(c))
    }
}

/// Returns the characters that occur both in a domain's name and in that of its cgroup.
fn alphanumeric_chars(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(char::is_ascii_alphanumeric)
}

/// Decodes systemd's escapes, `\x2d` for `-`, documented in `systemd-escape(1)`.
fn unescape_systemd(name: &str) -> String {
    let mut parts = name.split(r"\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.split_at_checked(2);
        let byte = digits.and_then(|(hex, rest)| Some((u8::from_str_radix(hex, 16).ok()?, rest)));
        if let Some((byte, rest)) = byte {
            bytes.push(byte);
            bytes.extend(rest.as_bytes());
        } else {
            bytes.extend(br"\x");
            bytes.extend(part.as_bytes());
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(id: u32, name: &str) -> RunningDomain {
        RunningDomain {
            id,
            name: name.to_owned(),
            uuid: format!("uuid-of-{name}"),
        }
    }

    #[test]
    fn domain_is_parsed_with_and_without_machined() {
        for (path, expected) in [
            (
                r"/machine.slice/machine-qemu\x2d7\x2dweb\x2d1.scope",
                Some((7, "web-1")),
            ),
            ("/machine/qemu-7-web-1.libvirt-qemu", Some((7, "web-1"))),
            ("/machine/lxc-12-a.b.libvirt-lxc", Some((12, "a.b"))),
            // Truncated within an escape.
            (
                r"/machine.slice/machine-qemu\x2d7\x2dweb\x2.scope",
                Some((7, r"web\x2")),
            ),
            ("/machine/qemu-7.libvirt-qemu", Some((7, ""))),
            (r"/machine.slice/machine-web\x2d7\x2ddb.scope", None),
            (r"/machine.slice/machine-qemu\x2dx\x2dweb.scope", None),
            ("/machine.slice/libpod-7-a.scope", None),
            (
                r"/machine.slice/machine-qemu\x2d7\x2dweb.scope/libvirt",
                None,
            ),
            ("/machine/qemu-7-web.libvirt-qemu/emulator", None),
            ("/", None),
        ] {
            let domain = WorkloadDomain::from_cgroup_path(path);
            let domain = domain
                .as_ref()
                .map(|domain| (domain.id, domain.name.as_str()));
            assert_eq!(domain, expected, "{path}");
        }
    }

    #[test]
    fn domain_id_leads_to_full_name() {
        let long = "a".repeat(80);
        let domains = [
            running(6, "web"),
            running(7, "web_1 \"x\""),
            running(8, &long),
        ];
        let name = |path: String| {
            WorkloadDomain::from_cgroup_path(&path)
                .unwrap()
                .with_libvirt_identity(&domains)
                .name
        };
        // libvirt drops characters that are invalid in a host name.
        let path = r"/machine.slice/machine-qemu\x2d7\x2dweb1x.scope";
        assert_eq!(name(path.to_owned()), "web_1 \"x\"");
        let truncated = format!("/machine/qemu-8-{}.libvirt-qemu", "a".repeat(57));
        assert_eq!(name(truncated), long);
    }

    #[test]
    fn other_domain_with_same_id_does_not_match() {
        let domains = [running(7, "web"), running(8, "db")];
        let domain_at = |path| {
            WorkloadDomain::from_cgroup_path(path)
                .unwrap()
                .with_libvirt_identity(&domains)
        };
        let domain = domain_at("/docker/0a/machine/qemu-7-other.libvirt-qemu");
        assert_eq!((domain.name.as_str(), domain.uuid), ("other", None));
        let domain = domain_at("/machine/qemu-8-db.libvirt-qemu");
        assert_eq!(domain.uuid.as_deref(), Some("uuid-of-db"));
        // Longer than the name in the path.
        assert_eq!(domain_at("/machine/qemu-8-db2.libvirt-qemu").uuid, None);
    }
}
