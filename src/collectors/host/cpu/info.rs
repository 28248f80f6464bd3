//! Parser of `/proc/cpuinfo`.
//!
//! The format depends on the architecture: x86 and arm have one paragraph per CPU; s390 starts
//! with the fields common to all CPUs, then lists the CPUs, then has a paragraph per CPU; ppc
//! ends with a paragraph about the machine. A single parser handles all of them by key, and
//! leaves missing fields empty.

use crate::sources::Text;

/// Fields of `/proc/cpuinfo` that are exposed.
#[derive(Debug, Default)]
pub(super) struct CpuInfo<'a> {
    pub cpus: Vec<CpuInfoEntry<'a>>,
    /// Feature flags of the first CPU.
    pub flags: &'a str,
    /// Hardware bugs of the first CPU.
    pub bugs: &'a str,
}

/// A CPU; values are copied verbatim from the file.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct CpuInfoEntry<'a> {
    pub number: &'a str,
    pub package: &'a str,
    pub core: &'a str,
    pub vendor: &'a str,
    pub family: &'a str,
    pub model: &'a str,
    pub model_name: &'a str,
    pub microcode: &'a str,
    pub stepping: &'a str,
    pub cache_size: &'a str,
    pub hertz: Option<f64>,
}

impl<'a> CpuInfo<'a> {
    pub(super) fn parse(text: &'a Text) -> Self {
        let mut all = Self::default();
        // Fields before the first CPU apply to all CPUs.
        let mut common = CpuInfoEntry::default();
        let mut current = None;
        for line in text.body().lines() {
            let Some((key, value)) = line.split_once(':') else {
                if line.trim_ascii().is_empty() {
                    current = None;
                }
                continue;
            };
            let (key, value) = (key.trim_ascii(), value.trim_ascii());
            match key {
                "flags" | "features" | "Features" if all.flags.is_empty() => all.flags = value,
                "bugs" if all.bugs.is_empty() => all.bugs = value,
                "cpu number" => {
                    current = all.cpus.iter().position(|cpu| cpu.number == value);
                }
                _ => {
                    if let Some(number) = parse_processor(key, value) {
                        current = Some(all.cpus.len());
                        let cpu = CpuInfoEntry {
                            number,
                            ..common.clone()
                        };
                        all.cpus.push(cpu);
                    } else if all.cpus.is_empty() {
                        common.set(key, value);
                    } else if let Some(cpu) = current.and_then(|at| all.cpus.get_mut(at)) {
                        cpu.set(key, value);
                    }
                }
            }
        }
        // An old ARM kernel for a single CPU does not number it.
        if all.cpus.is_empty() && !common.model_name.is_empty() {
            common.number = "0";
            all.cpus.push(common);
        }
        all
    }
}

/// Returns the CPU number if the line starts a CPU: `processor : 3`, or on s390 `processor 3:
/// version = 00, ...`.
fn parse_processor<'a>(key: &'a str, value: &'a str) -> Option<&'a str> {
    let rest = key.strip_prefix("processor")?.trim_ascii();
    let number = if rest.is_empty() { value } else { rest };
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then_some(number)
}

impl<'a> CpuInfoEntry<'a> {
    fn set(&mut self, key: &str, value: &'a str) {
        match key {
            "physical id" | "package" => self.package = value,
            "core id" | "core" | "hart" => self.core = value,
            // `cpu` is the key on ppc.
            "vendor_id" | "vendor" | "cpu" => self.vendor = value,
            "cpu family" | "CPU Family" => self.family = value,
            "model" => self.model = value,
            // `Processor` is the key on old ARM kernels, `isa` on RISC-V, `cpu model` on MIPS.
            "model name" | "Model Name" | "Processor" | "isa" | "cpu model" => {
                self.model_name = value;
            }
            "microcode" => self.microcode = value,
            "stepping" => self.stepping = value,
            "cache size" => self.cache_size = value,
            // `clock` is the key on ppc, `cpu MHz dynamic` on s390.
            "cpu MHz" | "CPU MHz" | "clock" | "cpu MHz dynamic" => self.hertz = hertz(value),
            _ => {}
        }
    }
}

/// Converts a value in MHz to hertz; ppc appends the unit to the value.
fn hertz(value: &str) -> Option<f64> {
    let number = value.trim_end_matches("MHz").trim_ascii();
    let megahertz: f64 = number.parse().ok()?;
    Some(megahertz * 1e6).filter(|hertz| hertz.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x86_has_a_paragraph_for_each_cpu() {
        let text = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 142\n\
            model name\t: Intel(R) Core(TM) i7: @ 1.90GHz\nstepping\t: 10\nmicrocode\t: 0xb4\n\
            cpu MHz\t\t: 799.998\ncache size\t: 8192 KB\nphysical id\t: 1\ncore id\t\t: 2\n\
            flags\t\t: fpu vme\nbugs\t\t: mds\n\nprocessor\t: 1\ncpu MHz\t\t: inf\nflags : other\n\n"
            .into();
        let info = CpuInfo::parse(&text);
        assert_eq!((info.flags, info.bugs), ("fpu vme", "mds"));
        let first = CpuInfoEntry {
            number: "0",
            package: "1",
            core: "2",
            vendor: "GenuineIntel",
            family: "6",
            model: "142",
            model_name: "Intel(R) Core(TM) i7: @ 1.90GHz",
            microcode: "0xb4",
            stepping: "10",
            cache_size: "8192 KB",
            hertz: Some(799_998_000.0),
        };
        let second = CpuInfoEntry {
            number: "1",
            ..CpuInfoEntry::default()
        };
        assert_eq!(info.cpus, [first, second]);
    }

    #[test]
    fn arm_reports_few_fields() {
        let text = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n\n\
            processor\t: 1\nFeatures\t: fp asimd\n\nHardware\t: BCM2835\n"
            .into();
        let info = CpuInfo::parse(&text);
        let numbers: Vec<_> = info.cpus.iter().map(|cpu| cpu.number).collect();
        assert_eq!((numbers, info.flags), (vec!["0", "1"], "fp asimd"));

        let text = "Processor : ARM926EJ-S rev 5 (v5l)\nBogoMIPS : 197.01\nFeatures : swp\n".into();
        let info = CpuInfo::parse(&text);
        assert_eq!(info.cpus[0].number, "0");
        assert_eq!(info.cpus[0].model_name, "ARM926EJ-S rev 5 (v5l)");
    }

    #[test]
    fn s390_starts_with_fields_common_to_all_cpus() {
        let text = "vendor_id       : IBM/S390\n# processors    : 2\nfeatures\t: esan3 zarch\n\
            processor 0: version = 00,  identification = 2733E8,  machine = 2964\n\
            processor 1: version = 00,  identification = 2733E8,  machine = 2964\n\n\
            cpu number      : 1\nphysical id     : 3\ncore id         : 4\n\
            cpu MHz dynamic : 5000\ncpu MHz static  : 4000\n\n"
            .into();
        let info = CpuInfo::parse(&text);
        assert_eq!(info.flags, "esan3 zarch");
        let [first, second] = &info.cpus[..] else {
            panic!("{info:?}")
        };
        assert_eq!((first.number, first.vendor), ("0", "IBM/S390"));
        assert_eq!(first.hertz, None);
        assert_eq!((second.number, second.vendor), ("1", "IBM/S390"));
        assert_eq!((second.package, second.core), ("3", "4"));
        assert_eq!(second.hertz, Some(5e9));
    }

    #[test]
    fn ppc_machine_paragraph_is_not_a_cpu() {
        let text = "processor\t: 0\ncpu\t\t: POWER9, altivec supported\nclock\t\t: 3000.5MHz\n\n\
            timebase\t: 512000000\nmodel\t\t: 9006-22P\n"
            .into();
        let info = CpuInfo::parse(&text);
        assert_eq!(info.cpus[0].vendor, "POWER9, altivec supported");
        assert_eq!(info.cpus[0].hertz, Some(3_000_500_000.0));
        assert_eq!(info.cpus[0].model, "");
    }
}
