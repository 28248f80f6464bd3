//! What all interfaces and all disks of a virtual machine did together, since it was
//! started.
//!
//! A device that is unplugged takes its counters with it. What it had counted is kept here
//! for as long as the domain runs, so that the totals do not step back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use super::labels::{DOMAIN, Labelled};
use crate::{
    family::Families,
    metric::Metric,
    metrics,
    sources::libvirt::{Disk, Domain, Interface},
};

metrics! {
    /// Bytes that the guest received on all its interfaces, those that were unplugged since it was started among them.
    RECEIVE_BYTES: Counter = "libvirt_domain_net_receive_bytes_total" of DOMAIN [];
    /// Packets that the guest received on all its interfaces, those that were unplugged since it was started among them.
    RECEIVE_PACKETS: Counter = "libvirt_domain_net_receive_packets_total" of DOMAIN [];
    /// Damaged packets on the way to the guest on all its interfaces, those that were unplugged since it was started among them.
    RECEIVE_ERRORS: Counter = "libvirt_domain_net_receive_errors_total" of DOMAIN [];
    /// Packets on the way to the guest that were dropped on all its interfaces, those that were unplugged since it was started among them.
    RECEIVE_DROPS: Counter = "libvirt_domain_net_receive_drops_total" of DOMAIN [];
    /// Bytes that the guest sent on all its interfaces, those that were unplugged since it was started among them.
    TRANSMIT_BYTES: Counter = "libvirt_domain_net_transmit_bytes_total" of DOMAIN [];
    /// Packets that the guest sent on all its interfaces, those that were unplugged since it was started among them.
    TRANSMIT_PACKETS: Counter = "libvirt_domain_net_transmit_packets_total" of DOMAIN [];
    /// Damaged packets from the guest on all its interfaces, those that were unplugged since it was started among them.
    TRANSMIT_ERRORS: Counter = "libvirt_domain_net_transmit_errors_total" of DOMAIN [];
    /// Packets from the guest that were dropped on all its interfaces, those that were unplugged since it was started among them.
    TRANSMIT_DROPS: Counter = "libvirt_domain_net_transmit_drops_total" of DOMAIN [];
    /// Bytes that were read from all disks, those that were unplugged since the domain was started among them.
    READ_BYTES: Counter = "libvirt_domain_disk_read_bytes_total" of DOMAIN [];
    /// Requests to read from all disks, those that were unplugged since the domain was started among them.
    READ_REQUESTS: Counter = "libvirt_domain_disk_read_requests_total" of DOMAIN [];
    /// Bytes that were written to all disks, those that were unplugged since the domain was started among them.
    WRITE_BYTES: Counter = "libvirt_domain_disk_write_bytes_total" of DOMAIN [];
    /// Requests to write to all disks, those that were unplugged since the domain was started among them.
    WRITE_REQUESTS: Counter = "libvirt_domain_disk_write_requests_total" of DOMAIN [];
}

/// Of devices that are not there any more, no more than this many are remembered by name,
/// for each domain.
const MAX_GONE: usize = 64;

static OF_INTERFACES: [&Metric<0>; 8] = [
    &RECEIVE_BYTES,
    &RECEIVE_PACKETS,
    &RECEIVE_ERRORS,
    &RECEIVE_DROPS,
    &TRANSMIT_BYTES,
    &TRANSMIT_PACKETS,
    &TRANSMIT_ERRORS,
    &TRANSMIT_DROPS,
];

static OF_DISKS: [&Metric<0>; 4] = [&READ_BYTES, &READ_REQUESTS, &WRITE_BYTES, &WRITE_REQUESTS];

/// What is kept of the domains that run.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<HashMap<Run, Kept>>);

/// One run of a domain: its UUID, and libvirt's number.
type Run = (String, u32);

#[derive(Debug, Default)]
struct Kept {
    interfaces: Sum<8>,
    disks: Sum<4>,
}

/// What devices of one kind counted, in `N` ways.
#[derive(Debug)]
struct Sum<const N: usize> {
    /// What each had counted when it was last seen, by name.
    devices: BTreeMap<String, [Option<u64>; N]>,
    /// What those had counted that others took the names of, or that are forgotten.
    gone: [Option<u64>; N],
}

impl Totals {
    pub(super) fn families(&self, out: &mut Families, of: &Labelled<'_>) {
        let domain = of.domain;
        let Some(id) = domain.id else {
            return;
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.entry((domain.uuid.clone(), id)).or_default();
        let is_complete = !domain.is_partial && !domain.is_stuck && domain.took.is_some();
        let interfaces = domain.stats.interfaces.iter();
        if let Some(now) = by_name(interfaces.map(|it| (it.name.as_str(), of_interface(it)))) {
            add(
                out,
                of,
                OF_INTERFACES,
                kept.interfaces.with(&now, is_complete),
            );
        }
        let disks = domain.stats.disks.iter();
        if let Some(now) = by_name(disks.map(|it| (it.name.as_str(), of_disk(it)))) {
            add(out, of, OF_DISKS, kept.disks.with(&now, is_complete));
        }
    }

    /// Forgets all domains but these, and those that were started anew.
    pub(super) fn keep(&self, domains: &[Domain]) {
        let runs = domains
            .iter()
            .filter_map(|domain| Some((domain.uuid.as_str(), domain.id?)));
        let runs: BTreeSet<_> = runs.collect();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(uuid, id), _| runs.contains(&(uuid.as_str(), *id)));
    }
}

fn add<const N: usize>(
    out: &mut Families,
    of: &Labelled<'_>,
    metrics: [&'static Metric<0>; N],
    totals: [Option<u64>; N],
) {
    for (metric, total) in metrics.into_iter().zip(totals) {
        if let Some(total) = total {
            out.add_of(metric, &of.own, [], total);
        }
    }
}

fn of_interface(interface: &Interface) -> [Option<u64>; 8] {
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

fn of_disk(disk: &Disk) -> [Option<u64>; 4] {
    [
        disk.read.bytes,
        disk.read.requests,
        disk.written.bytes,
        disk.written.requests,
    ]
}

/// Nothing where one has no name or another's: which is which from one scrape to the next
/// could not be told.
fn by_name<'a, T>(devices: impl Iterator<Item = (&'a str, T)>) -> Option<BTreeMap<&'a str, T>> {
    let mut all = BTreeMap::new();
    for (name, counters) in devices {
        if name.is_empty() || all.insert(name, counters).is_some() {
            return None;
        }
    }
    Some(all)
}

impl<const N: usize> Default for Sum<N> {
    fn default() -> Self {
        Self {
            devices: BTreeMap::new(),
            gone: [None; N],
        }
    }
}

impl<const N: usize> Sum<N> {
    /// Takes in what the devices have counted now, and sums up what all counted.
    ///
    /// What is not known of one is not known of the sum, unless the device is not there:
    /// then it stays what it was. That is to be told apart only where the answer
    /// `is_complete`.
    fn with(
        &mut self,
        now: &BTreeMap<&str, [Option<u64>; N]>,
        is_complete: bool,
    ) -> [Option<u64>; N] {
        for (name, now) in now {
            if let Some(last) = self.devices.get_mut(*name) {
                let mut fields = last.iter().zip(now);
                if fields.any(|(last, now)| now.is_some() && now < last) {
                    // It is another device of the same name.
                    plus(&mut self.gone, last);
                    *last = *now;
                } else {
                    for (last, now) in last.iter_mut().zip(now) {
                        *last = now.or(*last);
                    }
                }
            } else {
                self.devices.insert((*name).to_owned(), *now);
            }
        }
        self.forget(now, is_complete);

        let mut total = self.gone;
        for counters in self.devices.values() {
            plus(&mut total, counters);
        }
        if !is_complete {
            for name in self.devices.keys() {
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

    /// Of devices that are not there, keeps what they counted, and not all of their names.
    fn forget(&mut self, now: &BTreeMap<&str, [Option<u64>; N]>, is_complete: bool) {
        if !is_complete || self.devices.len() <= now.len() + MAX_GONE {
            return;
        }
        let gone = &mut self.gone;
        self.devices.retain(|name, counters| {
            let is_there = now.contains_key(name.as_str());
            if !is_there {
                plus(gone, counters);
            }
            is_there
        });
    }
}

fn plus<const N: usize>(sum: &mut [Option<u64>; N], counters: &[Option<u64>; N]) {
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
    use crate::sources::libvirt::{Operations, Stats, Traffic};

    fn disk(name: &str, bytes: u64) -> Disk {
        let operations = |bytes| Operations {
            requests: Some(1),
            bytes: Some(bytes),
            time: None,
        };
        Disk {
            name: name.to_owned(),
            read: operations(bytes),
            written: operations(bytes + 1),
            ..Disk::default()
        }
    }

    fn running(id: u32, disks: Vec<Disk>) -> Domain {
        Domain {
            id: Some(id),
            took: Some(Duration::from_millis(1)),
            stats: Stats {
                disks,
                ..Stats::default()
            },
            ..testing::domain("web")
        }
    }

    /// Bytes that were read from all disks by now.
    fn read(totals: &Totals, domain: &Domain) -> Option<String> {
        totals.keep(std::slice::from_ref(domain));
        let lines = testing::lines(domain, "inovex", |out, of| totals.families(out, of));
        let prefix = r#"libvirt_domain_disk_read_bytes_total{domain="web"} "#;
        let mut values = lines.iter().filter_map(|line| line.strip_prefix(prefix));
        values.next().map(str::to_owned)
    }

    #[test]
    fn interfaces_and_disks_are_summed_up() {
        let traffic = |first| Traffic {
            bytes: Some(first),
            packets: Some(first + 1),
            errors: Some(first + 2),
            drops: Some(first + 3),
        };
        let interface = |name: &str, first| Interface {
            name: name.to_owned(),
            received: traffic(first),
            sent: traffic(first + 4),
        };
        let mut domain = running(1, vec![disk("vda", 10), disk("vdb", 20)]);
        domain.stats.interfaces = vec![interface("vnet0", 100), interface("vnet1", 1000)];
        let totals = Totals::default();
        assert_eq!(
            testing::lines(&domain, "kumina", |out, of| totals.families(out, of)),
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
    fn a_total_does_not_step_back_when_a_device_goes_or_another_takes_its_name() {
        let totals = Totals::default();
        let read = |disks| read(&totals, &running(1, disks)).unwrap();
        assert_eq!(read(vec![disk("vda", 10), disk("vdb", 20)]), "30");
        assert_eq!(read(vec![disk("vda", 11)]), "31");
        // A new one under the old name.
        assert_eq!(read(vec![disk("vda", 12), disk("vdb", 3)]), "35");
        assert_eq!(read(vec![disk("vdb", 4)]), "36");
        assert_eq!(read(vec![]), "36");
    }

    #[test]
    fn a_domain_that_was_started_anew_begins_anew() {
        let totals = Totals::default();
        let run = |id, bytes| read(&totals, &running(id, vec![disk("vda", bytes)]));
        assert_eq!(run(1, 10).as_deref(), Some("10"));
        assert_eq!(run(2, 3).as_deref(), Some("3"));
        assert_eq!(totals.0.lock().unwrap().len(), 1);
        // And one that is off is forgotten.
        totals.keep(&[testing::domain("web")]);
        assert!(totals.0.lock().unwrap().is_empty());
    }

    #[test]
    fn what_libvirt_left_out_is_not_taken_for_unplugged() {
        let totals = Totals::default();
        let partial = |disks| Domain {
            is_partial: true,
            ..running(1, disks)
        };
        assert_eq!(read(&totals, &partial(vec![])), None);
        let whole = running(1, vec![disk("vda", 10), disk("vdb", 20)]);
        assert_eq!(read(&totals, &whole).as_deref(), Some("30"));
        assert_eq!(read(&totals, &partial(vec![])), None);
        assert_eq!(read(&totals, &partial(vec![disk("vda", 11)])), None);
        let both = partial(vec![disk("vda", 12), disk("vdb", 20)]);
        assert_eq!(read(&totals, &both).as_deref(), Some("32"));
    }

    #[test]
    fn devices_that_cannot_be_told_apart_are_not_summed_up() {
        let totals = Totals::default();
        for name in ["", "vda"] {
            let domain = running(1, vec![disk("vda", 1), disk(name, 2)]);
            assert_eq!(read(&totals, &domain), None, "{name:?}");
        }
    }

    #[test]
    fn a_guest_that_plugs_for_ever_is_not_remembered_for_ever() {
        let totals = Totals::default();
        for at in 0..1000 {
            let domain = running(1, vec![disk(&format!("vd{at}"), 1)]);
            assert_eq!(read(&totals, &domain), Some((at + 1).to_string()));
        }
        let kept = totals.0.lock().unwrap();
        let names = kept.values().map(|kept| kept.disks.devices.len());
        assert!(names.sum::<usize>() <= MAX_GONE + 1);
    }
}
