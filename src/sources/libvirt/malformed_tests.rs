//! Property tests: arbitrary bytes from the socket are parsed or rejected. Recorded replies and
//! domain XML are damaged at random; no parser may panic or return more items than the input
//! holds.

use std::ops::RangeInclusive;

use proptest::prelude::*;

use super::{
    params,
    wire::{self, Message},
    xml,
};
use crate::fixtures::libvirt_body;

/// Recorded replies and events: `tests/fixtures/README.md`.
const RECORDED: [&str; 10] = [
    "device",
    "domains",
    "info",
    "io_error",
    "job",
    "lifecycle",
    "metadata",
    "refusal",
    "stats",
    "tunable",
];

/// Procedure numbers of events.
const EVENTS: RangeInclusive<u32> = 310..=380;

const DESCRIPTION: &str = r#"<domain type='qemu' id='1'><title>a &quot;b&quot; &amp; c</title>
<metadata><n:instance xmlns:n="http://openstack.org/xmlns/libvirt/nova/1.1"><n:name>i</n:name>
</n:instance></metadata><vcpu current='1'>2</vcpu><os><type arch='x86_64'>hvm</type></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a'/>
<target dev='vda' bus='virtio'/><iotune><read_bytes_sec>1</read_bytes_sec></iotune></disk>
<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>
<target dev='vnet0'/><mtu size='1500'/></interface>
<memballoon><stats period='10'/></memballoon></devices></domain>"#;

/// Replaces some bytes and truncates at a random position.
fn corrupted(original: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = original.len();
    // Lengths and counts are mostly small, so these bytes do the most damage.
    let byte = prop_oneof![Just(0), Just(1), Just(0x7f), Just(0xff), any::<u8>()];
    let changes = prop::collection::vec((0..length, byte), 0..12);
    let end = prop_oneof![3 => Just(length), 1 => 0..=length];
    (changes, end).prop_map(move |(changes, end)| {
        let mut bytes = original.clone();
        for (index, byte) in changes {
            bytes[index] = byte;
        }
        bytes.truncate(end);
        bytes
    })
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let recorded =
        (0..RECORDED.len()).prop_flat_map(|index| corrupted(libvirt_body(RECORDED[index])));
    prop_oneof![6 => recorded, 1 => prop::collection::vec(any::<u8>(), 0..600)]
}

/// Whether the number of items is at most the number of bytes.
fn is_bounded_by_input<T, E>(parsed: &Result<Vec<T>, E>, body: &[u8]) -> bool {
    parsed.as_ref().map_or(0, Vec::len) <= body.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn body_is_parsed_or_rejected(body in any_body()) {
        let records = wire::parse_stats_records(&body);
        prop_assert!(is_bounded_by_input(&records, &body));
        for record in records.into_iter().flatten() {
            let (state, _, stats) = params::parse_stats(record.params);
            params::is_complete(&stats, state);
            let devices = stats.disks.len() + stats.interfaces.len() + stats.vcpus.len();
            prop_assert!(devices <= body.len());
        }
        prop_assert!(is_bounded_by_input(&wire::parse_domain_list(&body), &body));
        prop_assert!(is_bounded_by_input(&wire::parse_object_list(&body), &body));
        prop_assert!(is_bounded_by_input(&wire::parse_auth_list(&body), &body));
        for procedure in EVENTS {
            wire::parse_event(procedure, &body).ok();
        }
        wire::parse_string(&body).ok();
        wire::parse_i32(&body).ok();
        wire::parse_u64(&body).ok();
        wire::parse_domain_info(&body).ok();
        wire::parse_domain_state(&body).ok();
        wire::parse_job_info(&body).ok();
        wire::parse_pool_info(&body).ok();
        wire::RemoteError::parse(&body).ok();
    }

    #[test]
    fn message_stream_ends_or_is_rejected(
        bytes in prop::collection::vec(any_body(), 1..4),
        lengths in prop::collection::vec(any::<u32>(), 4),
    ) {
        let mut stream = Vec::new();
        for (body, length) in bytes.iter().zip(lengths) {
            let actual = u32::try_from(body.len() + 28).unwrap();
            let length = if length % 3 == 0 { length } else { actual };
            for number in [length, 0x2000_8086, 1, 344, 1, 7, 0] {
                stream.extend(number.to_be_bytes());
            }
            stream.extend(body);
        }
        let mut rest = stream.as_slice();
        while let Ok(Some((message, remaining))) = Message::parse(rest) {
            prop_assert!(message.body.len() + remaining.len() < rest.len());
            rest = remaining;
        }
    }

    #[test]
    fn domain_xml_is_parsed_or_rejected(bytes in corrupted(DESCRIPTION.as_bytes().to_vec())) {
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(definition) = xml::parse_domain(&text) {
            prop_assert!(definition.disks.len() <= 1 && definition.interfaces.len() <= 1);
        }
    }
}

#[test]
fn undamaged_recordings_are_parsed() {
    let [
        device,
        domains,
        info,
        io_error,
        job,
        lifecycle,
        metadata,
        error,
        stats,
        tunable,
    ] = RECORDED.map(libvirt_body);
    assert_eq!(wire::parse_domain_list(&domains).unwrap().len(), 1);
    assert_eq!(wire::parse_stats_records(&stats).unwrap().len(), 1);
    assert!(wire::parse_domain_info(&info).is_ok() && wire::parse_job_info(&job).is_ok());
    assert!(wire::RemoteError::parse(&error).unwrap().is_gone());
    for body in [device, io_error, lifecycle, metadata, tunable] {
        let is_parsed = |procedure| matches!(wire::parse_event(procedure, &body), Ok(Some(_)));
        assert!(EVENTS.into_iter().any(is_parsed));
    }
    let definition = xml::parse_domain(DESCRIPTION).unwrap();
    assert_eq!(
        (definition.disks.len(), definition.interfaces.len()),
        (1, 1)
    );
    assert!(definition.nova.is_some());
}
