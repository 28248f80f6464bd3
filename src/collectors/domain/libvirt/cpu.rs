//! CPU time of a virtual machine: of everything it runs on the host, and of each virtual CPU.

use super::labels::{DOMAIN, LabelledDomain};
use crate::{family::Families, metrics};

metrics! {
    /// CPU time used by the domain on the host, by virtual CPUs and emulator threads.
    TIME: Counter = "libvirt_domain_info_cpu_time_seconds_total" base DOMAIN [];
    /// User CPU time used by the domain on the host; the kernel counts guest time in this or in the
    /// system time.
    USER: Counter = "libvirt_domain_cpu_user_seconds_total" base DOMAIN [];
    /// System CPU time used by the domain on the host.
    SYSTEM: Counter = "libvirt_domain_cpu_system_seconds_total" base DOMAIN [];
    /// Virtual CPUs of the domain.
    VIRTUAL_CPUS: Gauge = "libvirt_domain_info_virtual_cpus" base DOMAIN [];
    /// Virtual CPUs of the domain.
    VCPU_CURRENT: Gauge = "libvirt_domain_vcpu_current" base DOMAIN [];
    /// Maximum number of virtual CPUs without a restart of the domain.
    VCPU_MAXIMUM: Gauge = "libvirt_domain_vcpu_maximum" base DOMAIN [];
    /// State of the virtual CPU: 0 offline, 1 running, 2 blocked.
    VCPU_STATE: Gauge = "libvirt_domain_vcpu_state" base DOMAIN ["vcpu"];
    /// Host CPU on which the virtual CPU ran last; absent where its thread is not visible.
    VCPU_CPU: Gauge = "libvirt_domain_vcpu_cpu" base DOMAIN ["vcpu"];
    /// CPU time used by the virtual CPU.
    VCPU_TIME: Counter = "libvirt_domain_vcpu_time_seconds_total" base DOMAIN ["vcpu"];
    /// Time that the virtual CPU waited for I/O; absent unless kernel.sched_schedstats is enabled
    /// on the host.
    VCPU_WAIT: Counter = "libvirt_domain_vcpu_wait_seconds_total" base DOMAIN ["vcpu"];
    /// Time that the virtual CPU was runnable but not running on the host (steal time of the
    /// guest).
    VCPU_DELAY: Counter = "libvirt_domain_vcpu_delay_seconds_total" base DOMAIN ["vcpu"];
}

pub(super) fn collect_into(out: &mut Families, labelled: &LabelledDomain<'_>) {
    let stats = &labelled.domain.stats;
    if let Some(time) = stats.cpu.time {
        labelled.add_shared(out, &TIME, time);
    }
    for (metric, time) in [(&USER, stats.cpu.user), (&SYSTEM, stats.cpu.system)] {
        if let Some(time) = time {
            out.add_with(metric, &labelled.base, [], time);
        }
    }
    if let Some(count) = stats.vcpu_current {
        labelled.add_shared(out, &VIRTUAL_CPUS, count);
        out.add_with(&VCPU_CURRENT, &labelled.base, [], count);
    }
    if let Some(count) = stats.vcpu_maximum {
        out.add_with(&VCPU_MAXIMUM, &labelled.base, [], count);
    }
    let mut number = itoa::Buffer::new();
    for vcpu in &stats.vcpus {
        let number = number.format(vcpu.number);
        if let Some(state) = vcpu.state {
            out.add_with(&VCPU_STATE, &labelled.base, [number], state);
        }
        if let Some(cpu) = vcpu.cpu {
            out.add_with(&VCPU_CPU, &labelled.base, [number], u64::from(cpu));
        }
        for (metric, time) in [
            (&VCPU_TIME, vcpu.time),
            (&VCPU_WAIT, vcpu.wait),
            (&VCPU_DELAY, vcpu.delay),
        ] {
            if let Some(time) = time {
                out.add_with(metric, &labelled.base, [number], time);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::testing, *};
    use crate::sources::libvirt::{CpuTimes, Domain, DomainState, DomainStats, Vcpu};

    fn domain() -> Domain {
        let time = |millis| Some(Duration::from_millis(millis));
        let stats = DomainStats {
            cpu: CpuTimes {
                time: time(9500),
                user: time(8250),
                system: time(1250),
            },
            vcpu_current: Some(2),
            vcpu_maximum: Some(4),
            vcpus: vec![
                Vcpu {
                    number: 0,
                    state: Some(1),
                    time: time(5000),
                    wait: time(10),
                    delay: time(2500),
                    cpu: Some(6),
                    kvm: Vec::new(),
                },
                // libvirt returns this while the monitor is busy.
                Vcpu {
                    number: 3,
                    delay: time(500),
                    ..Vcpu::default()
                },
            ],
            ..DomainStats::default()
        };
        Domain {
            state: Some(DomainState::Running),
            stats,
            ..testing::domain("web")
        }
    }

    #[test]
    fn each_vcpu_has_its_own_series() {
        assert_eq!(
            testing::lines(&domain(), "inovex", collect_into),
            [
                r#"libvirt_domain_info_cpu_time_seconds_total{domain="web"} 9.5"#,
                r#"libvirt_domain_cpu_user_seconds_total{domain="web"} 8.25"#,
                r#"libvirt_domain_cpu_system_seconds_total{domain="web"} 1.25"#,
                r#"libvirt_domain_info_virtual_cpus{domain="web"} 2"#,
                r#"libvirt_domain_vcpu_current{domain="web"} 2"#,
                r#"libvirt_domain_vcpu_maximum{domain="web"} 4"#,
                r#"libvirt_domain_vcpu_state{domain="web",vcpu="0"} 1"#,
                r#"libvirt_domain_vcpu_cpu{domain="web",vcpu="0"} 6"#,
                r#"libvirt_domain_vcpu_time_seconds_total{domain="web",vcpu="0"} 5"#,
                r#"libvirt_domain_vcpu_wait_seconds_total{domain="web",vcpu="0"} 0.01"#,
                r#"libvirt_domain_vcpu_delay_seconds_total{domain="web",vcpu="0"} 2.5"#,
                r#"libvirt_domain_vcpu_delay_seconds_total{domain="web",vcpu="3"} 0.5"#,
            ]
        );
    }

    #[test]
    fn uuid_label_only_on_kumina_metrics() {
        let lines = testing::lines(&domain(), "kumina", collect_into);
        let uuids: Vec<_> = lines.iter().filter(|line| line.contains("uuid=")).collect();
        let label = format!(r#"{{domain="web",uuid="{}"}}"#, testing::UUID);
        let time = format!("libvirt_domain_info_cpu_time_seconds_total{label} 9.5");
        let cpus = format!("libvirt_domain_info_virtual_cpus{label} 2");
        assert_eq!(uuids, [&time, &cpus]);
        let off = Domain {
            state: Some(DomainState::Shutoff),
            ..domain()
        };
        let lines = testing::lines(&off, "kumina", collect_into);
        assert!(!lines.iter().any(|line| line.contains("uuid=")));
    }
}
