//! Totals over all interfaces and over all disks of a virtual machine since it was started.
//!
//! The counters of a device are lost when it is unplugged. This module keeps them while the domain
//! runs, so that totals do not decrease.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use super::labels::{DOMAIN, LabelledDomain};
use crate::{
    family::Families,
    metric::Metric,
    metrics,
    sources::libvirt::{Domain, DomainDisk, DomainInterface},
};

metrics! {
    /// Bytes received on all interfaces of the domain, including those unplugged since its start.
    RECEIVE_BYTES: Counter = "libvirt_domain_net_receive_bytes_total" base DOMAIN [];
    /// Packets received on all interfaces of the domain, including those unplugged since its start.
    RECEIVE_PACKETS: Counter = "libvirt_domain_net_receive_packets_total" base DOMAIN [];
    /// Receive errors on all interfaces of the domain, including those unplugged since its start.
    RECEIVE_ERRORS: Counter = "libvirt_domain_net_receive_errors_total" base DOMAIN [];
    /// Packets to the domain dropped on all interfaces of the domain, including those unplugged
    /// since its start.
    RECEIVE_DROPS: Counter = "libvirt_domain_net_receive_drops_total" base DOMAIN [];
    /// Bytes sent on all interfaces of the domain, including those unplugged since its start.
    TRANSMIT_BYTES: Counter = "libvirt_domain_net_transmit_bytes_total" base DOMAIN [];
    /// Packets sent on all interfaces of the domain, including those unplugged since its start.
    TRANSMIT_PACKETS: Counter = "libvirt_domain_net_transmit_packets_total" base DOMAIN [];
    /// Transmit errors on all interfaces of the domain, including those unplugged since its start.
    TRANSMIT_ERRORS: Counter = "libvirt_domain_net_transmit_errors_total" base DOMAIN [];
    /// Packets from the domain dropped on all interfaces of the domain, including those unplugged
    /// since its start.
    TRANSMIT_DROPS: Counter = "libvirt_domain_net_transmit_drops_total" base DOMAIN [];
    /// Bytes read of all disks of the domain, including those unplugged since its start.
    READ_BYTES: Counter = "libvirt_domain_disk_read_bytes_total" base DOMAIN [];
    /// Read requests of all disks of the domain, including those unplugged since its start.
    READ_REQUESTS: Counter = "libvirt_domain_disk_read_requests_total" base DOMAIN [];
    /// Bytes written of all disks of the domain, including those unplugged since its start.
    WRITE_BYTES: Counter = "libvirt_domain_disk_write_bytes_total" base DOMAIN [];
    /// Write requests of all disks of the domain, including those unplugged since its start.
    WRITE_REQUESTS: Counter = "libvirt_domain_disk_write_requests_total" base DOMAIN [];
}

/// Maximum number of removed devices remembered by name, per domain.
const MAX_REMOVED: usize = 64;

static INTERFACE_METRICS: [&Metric<0>; 8] = [
    &RECEIVE_BYTES,
    &RECEIVE_PACKETS,
    &RECEIVE_ERRORS,
    &RECEIVE_DROPS,
    &TRANSMIT_BYTES,
    &TRANSMIT_PACKETS,
    &TRANSMIT_ERRORS,
    &TRANSMIT_DROPS,
];

static DISK_METRICS: [&Metric<0>; 4] = [&READ_BYTES, &READ_REQUESTS, &WRITE_BYTES, &WRITE_REQUESTS];

/// Totals of the running domains.
#[derive(Debug, Default)]
pub(super) struct DeviceTotals(Mutex<HashMap<DomainRun, RunTotals>>);

/// One run of a domain: its UUID and libvirt's id.
type DomainRun = (String, u32);

#[derive(Debug, Default)]
struct RunTotals {
    interfaces: CounterSums<8>,
    disks: CounterSums<4>,
}

/// Sums of `N` counters over the devices of one kind.
#[derive(Debug)]
struct CounterSums<const N: usize> {
    /// The last counters of each device, by name.
    last_counters: BTreeMap<String, [Option<u64>; N]>,
    /// Sum over removed devices whose name is reused or no longer remembered.
    removed: [Option<u64>; N],
}

impl DeviceTotals {
    pub(super) fn collect_into(&self, out: &mut Families, labelled: &LabelledDomain<'_>) {
        let domain = labelled.domain;
        let Some(id) = domain.id else {
            return;
        };
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = runs.entry((domain.uuid.clone(), id)).or_default();
        let is_complete = !domain.is_partial && !domain.is_stuck && domain.response_time.is_some();
        let interfaces = domain.stats.interfaces.iter();
        if let Some(now) =
            index_by_name(interfaces.map(|it| (it.name.as_str(), interface_counters(it))))
        {
            add_totals(
                out,
                labelled,
                INTERFACE_METRICS,
                totals.interfaces.update(&now, is_complete),
            );
        }
        let disks = domain.stats.disks.iter();
        if let Some(now) = index_by_name(disks.map(|it| (it.name.as_str(), disk_counters(it)))) {
            add_totals(
                out,
                labelled,
                DISK_METRICS,
                totals.disks.update(&now, is_complete),
            );
        }
    }

    /// Removes domains that are missing from this list or were restarted.
    pub(super) fn retain(&self, domains: &[Domain]) {
        let runs = domains
            .iter()
            .filter_map(|domain| Some((domain.uuid.as_str(), domain.id?)));
        let runs: BTreeSet<_> = runs.collect();
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        totals.retain(|(uuid, id), _| runs.contains(&(uuid.as_str(), *id)));
    }
}

fn add_totals<const N: usize>(
    out: &mut Families,
    labelled: &LabelledDomain<'_>,
    metrics: [&'static Metric<0>; N],
    totals: [Option<u64>; N],
) {
    for (metric, total) in metrics.into_iter().zip(totals) {
        if let Some(total) = total {
            out.add_with(metric, &labelled.base, [], total);
        }
    }
}

fn interface_counters(interface: &DomainInterface) -> [Option<u64>; 8] {
    let (received, sent) = (&interface.received, &interface.sent);
    [
        received.bytes,
        received.packets,
        received.errors,
        received.drops,
        sent.bytes,
        sent.packets,
        sent.errors,
        sent.drops,
    ]
}

fn disk_counters(disk: &DomainDisk) -> [Option<u64>; 4] {
    [
        disk.read.bytes,
        disk.read.requests,
        disk.written.bytes,
        disk.written.requests,
    ]
}

/// `None` if a device has no name or a duplicate one, because it could not be recognised in the
/// next scrape.
fn index_by_name<'a, T>(
    devices: impl Iterator<Item = (&'a str, T)>,
) -> Option<BTreeMap<&'a str, T>> {
    let mut all = BTreeMap::new();
    for (name, counters) in devices {
        if name.is_empty() || all.insert(name, counters).is_some() {
            return None;
        }
    }
    Some(all)
}

impl<const N: usize> Default for CounterSums<N> {
    fn default() -> Self {
        Self {
            last_counters: BTreeMap::new(),
            removed: [None; N],
        }
    }
}

impl<const N: usize> CounterSums<N> {
    /// Updates the counters of the devices and returns their sums.
    ///
    /// If a counter is unknown for one device, the sum is unknown. If the device was removed, its
    /// last value counts. The two cases can be distinguished only if the response `is_complete`.
    fn update(
        &mut self,
        now: &BTreeMap<&str, [Option<u64>; N]>,
        is_complete: bool,
    ) -> [Option<u64>; N] {
        for (name, now) in now {
            if let Some(last) = self.last_counters.get_mut(*name) {
                let mut fields = last.iter().zip(now);
                if fields.any(|(last, now)| now.is_some() && now < last) {
                    // Another device reuses the name.
                    add_counters(&mut self.removed, last);
                    *last = *now;
                } else {
                    for (last, now) in last.iter_mut().zip(now) {
                        *last = now.or(*last);
                    }
                }
            } else {
                self.last_counters.insert((*name).to_owned(), *now);
            }
        }
        self.fold_removed(now, is_complete);

        let mut total = self.removed;
        for counters in self.last_counters.values() {
            add_counters(&mut total, counters);
        }
        if !is_complete {
            for name in self.last_counters.keys() {
                let now = now.get(name.as_str()).copied().unwrap_or([None; N]);
                for (total, now) in total.iter_mut().zip(now) {
                    if now.is_none() {
                        *total = None;
                    }
                }
            }
        }
        total
    }

    /// Folds the counters of removed devices into their sum once too many names are remembered.
    fn fold_removed(&mut self, now: &BTreeMap<&str, [Option<u64>; N]>, is_complete: bool) {
        if !is_complete || self.last_counters.len() <= now.len() + MAX_REMOVED {
            return;
        }
        let removed = &mut self.removed;
        self.last_counters.retain(|name, counters| {
            let is_present = now.contains_key(name.as_str());
            if !is_present {
                add_counters(removed, counters);
            }
            is_present
        });
    }
}

fn add_counters<const N: usize>(sum: &mut [Option<u64>; N], counters: &[Option<u64>; N]) {
    for (sum, counter) in sum.iter_mut().zip(counters) {
        if let Some(counter) = counter {
            *sum = Some(sum.unwrap_or_default().saturating_add(*counter));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::testing, *};
    use crate::sources::libvirt::{DiskOperations, DomainStats, InterfaceTraffic};

    fn disk(name: &str, bytes: u64) -> DomainDisk {
        let operations = |bytes| DiskOperations {
            requests: Some(1),
            bytes: Some(bytes),
            time: None,
        };
        DomainDisk {
            name: name.to_owned(),
            read: operations(bytes),
            written: operations(bytes + 1),
            ..DomainDisk::default()
        }
    }

    fn running(id: u32, disks: Vec<DomainDisk>) -> Domain {
        Domain {
            id: Some(id),
            response_time: Some(Duration::from_millis(1)),
            stats: DomainStats {
                disks,
                ..DomainStats::default()
            },
            ..testing::domain("web")
        }
    }

    /// Total bytes read from all disks.
    fn read(totals: &DeviceTotals, domain: &Domain) -> Option<String> {
        totals.retain(std::slice::from_ref(domain));
        let lines = testing::lines(domain, "inovex", |out, labelled| {
            totals.collect_into(out, labelled);
        });
        let prefix = r#"libvirt_domain_disk_read_bytes_total{domain="web"} "#;
        let mut values = lines.iter().filter_map(|line| line.strip_prefix(prefix));
        values.next().map(str::to_owned)
    }

    #[test]
    fn interfaces_and_disks_are_summed_up() {
        let traffic = |first| InterfaceTraffic {
            bytes: Some(first),
            packets: Some(first + 1),
            errors: Some(first + 2),
            drops: Some(first + 3),
        };
        let interface = |name: &str, first| DomainInterface {
            name: name.to_owned(),
            received: traffic(first),
            sent: traffic(first + 4),
        };
        let mut domain = running(1, vec![disk("vda", 10), disk("vdb", 20)]);
        domain.stats.interfaces = vec![interface("vnet0", 100), interface("vnet1", 1000)];
        let totals = DeviceTotals::default();
        assert_eq!(
            testing::lines(&domain, "kumina", |out, labelled| totals
                .collect_into(out, labelled)),
            [
                r#"libvirt_domain_net_receive_bytes_total{domain="web"} 1100"#,
                r#"libvirt_domain_net_receive_packets_total{domain="web"} 1102"#,
                r#"libvirt_domain_net_receive_errors_total{domain="web"} 1104"#,
                r#"libvirt_domain_net_receive_drops_total{domain="web"} 1106"#,
                r#"libvirt_domain_net_transmit_bytes_total{domain="web"} 1108"#,
                r#"libvirt_domain_net_transmit_packets_total{domain="web"} 1110"#,
                r#"libvirt_domain_net_transmit_errors_total{domain="web"} 1112"#,
                r#"libvirt_domain_net_transmit_drops_total{domain="web"} 1114"#,
                r#"libvirt_domain_disk_read_bytes_total{domain="web"} 30"#,
                r#"libvirt_domain_disk_read_requests_total{domain="web"} 2"#,
                r#"libvirt_domain_disk_write_bytes_total{domain="web"} 32"#,
                r#"libvirt_domain_disk_write_requests_total{domain="web"} 2"#,
            ]
        );
    }

    #[test]
    fn totals_survive_device_removal_and_name_reuse() {
        let totals = DeviceTotals::default();
        let read = |disks| read(&totals, &running(1, disks)).unwrap();
        assert_eq!(read(vec![disk("vda", 10), disk("vdb", 20)]), "30");
        assert_eq!(read(vec![disk("vda", 11)]), "31");
        // Another device under the old name.
        assert_eq!(read(vec![disk("vda", 12), disk("vdb", 3)]), "35");
        assert_eq!(read(vec![disk("vdb", 4)]), "36");
        assert_eq!(read(vec![]), "36");
    }

    #[test]
    fn totals_reset_on_domain_restart() {
        let totals = DeviceTotals::default();
        let run = |id, bytes| read(&totals, &running(id, vec![disk("vda", bytes)]));
        assert_eq!(run(1, 10).as_deref(), Some("10"));
        assert_eq!(run(2, 3).as_deref(), Some("3"));
        assert_eq!(totals.0.lock().unwrap().len(), 1);
        // A domain that is shut off is removed.
        totals.retain(&[testing::domain("web")]);
        assert!(totals.0.lock().unwrap().is_empty());
    }

    #[test]
    fn omitted_device_is_not_treated_as_unplugged() {
        let totals = DeviceTotals::default();
        let partial = |disks| Domain {
            is_partial: true,
            ..running(1, disks)
        };
        assert_eq!(read(&totals, &partial(vec![])), None);
        let both = running(1, vec![disk("vda", 10), disk("vdb", 20)]);
        assert_eq!(read(&totals, &both).as_deref(), Some("30"));
        assert_eq!(read(&totals, &partial(vec![])), None);
        assert_eq!(read(&totals, &partial(vec![disk("vda", 11)])), None);
        let both = partial(vec![disk("vda", 12), disk("vdb", 20)]);
        assert_eq!(read(&totals, &both).as_deref(), Some("32"));
    }

    #[test]
    fn ambiguous_devices_are_not_summed() {
        let totals = DeviceTotals::default();
        for name in ["", "vda"] {
            let domain = running(1, vec![disk("vda", 1), disk(name, 2)]);
            assert_eq!(read(&totals, &domain), None, "{name:?}");
        }
    }

    #[test]
    fn repeated_hotplug_does_not_grow_memory() {
        let totals = DeviceTotals::default();
        for at in 0..1000 {
            let domain = running(1, vec![disk(&format!("vd{at}"), 1)]);
            assert_eq!(read(&totals, &domain), Some((at + 1).to_string()));
        }
        let totals = totals.0.lock().unwrap();
        let names = totals
            .values()
            .map(|totals| totals.disks.last_counters.len());
        assert!(names.sum::<usize>() <= MAX_REMOVED + 1);
    }
}
