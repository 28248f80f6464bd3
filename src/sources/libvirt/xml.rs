//! What a domain's description says. Its form is documented in libvirt's `formatdomain`;
//! what `OpenStack` Nova writes into it, only in Nova's source.
//!
//! Most of a description is libvirt's, but its metadata is whatever their owners put there.

use std::time::Duration;

use roxmltree::{Document, Node, ParsingOptions};

use super::domain::{DiskDef, DomainDef, InterfaceDef, IoLimit, IoTune, IoTuneLimits, Nova};

/// A description is no longer than this; libvirt's own limit for a text is as long.
const MAX_BYTES: usize = 4 << 20;
/// It has no more elements and texts than this: a guest with all the devices it could
/// have has a tenth of them.
const MAX_NODES: u32 = 100_000;
/// No element has more attributes than this; the parser compares each with each.
const MAX_ATTRIBUTES: usize = 256;
/// No more namespaces are declared than this; the parser writes down for each element that
/// declares one all that it is in.
const MAX_NAMESPACES: usize = 256;
/// What it says of one thing is cut after so many characters: it becomes a label.
const MAX_TEXT: usize = 4096;
/// An error is no longer than this.
const MAX_ERROR: usize = 200;
/// The namespaces of Nova's metadata, the newer first.
const NOVA_NAMESPACES: [&str; 2] = [
    "http://openstack.org/xmlns/libvirt/nova/1.1",
    "http://openstack.org/xmlns/libvirt/nova/1.0",
];
/// What the source of a disk may be called, by its kind: the first that is there is taken.
const SOURCE_ATTRIBUTES: [&str; 6] = ["file", "dev", "name", "dir", "volume", "path"];

/// What a description says, or why it is none.
pub(super) fn parse_domain(xml: &str) -> Result<DomainDef, String> {
    check_limits(xml)?;
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(xml, options)
        .map_err(|error| truncate(&format!("a domain's description: {error}"), MAX_ERROR))?;
    let domain = Element(Some(document.root_element()));
    if !document.root_element().has_tag_name("domain") {
        return Err("a domain's description: its root is another element".to_owned());
    }
    let os_type = domain.child("os").child("type");
    let devices = domain.child("devices");
    Ok(DomainDef {
        title: domain.child("title").text(),
        os_type: os_type.text(),
        arch: os_type.attribute("arch"),
        machine: os_type.attribute("machine"),
        max_vcpus: domain.child("vcpu").text().and_then(|it| it.parse().ok()),
        balloon_period: devices.child("memballoon").child("stats").number("period"),
        disks: devices.children("disk").filter_map(parse_disk).collect(),
        interfaces: devices.children("interface").map(parse_interface).collect(),
        nova: parse_nova(domain.child("metadata")),
    })
}

/// Refuses what would cost the parser more than its length.
fn check_limits(xml: &str) -> Result<(), String> {
    let refused = |what| Err(format!("a domain's description: {what}"));
    if xml.len() > MAX_BYTES {
        return refused("longer than any should be");
    }
    // No `<` is inside of a tag. Comments and the like count as tags, which they need not.
    if xml
        .split('<')
        .any(|tag| count_attributes(tag) > MAX_ATTRIBUTES)
    {
        return refused("an element has too many attributes");
    }
    if xml.matches("xmlns").count() > MAX_NAMESPACES {
        return refused("it has too many namespaces");
    }
    Ok(())
}

/// The beginning of a text.
fn truncate(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).collect()
}

/// How many attributes there are between a `<` and its `>`, which values may have too.
fn count_attributes(tag: &str) -> usize {
    let mut quote = None;
    let mut attributes = 0;
    for byte in tag.bytes() {
        match (byte, quote) {
            (b'"' | b'\'', None) => quote = Some(byte),
            (_, Some(open)) if byte == open => quote = None,
            (b'>', None) => break,
            (b'=', None) => attributes += 1,
            _ => {}
        }
    }
    attributes
}

/// A disk, if it has the name that everything else is said of.
fn parse_disk(disk: Element<'_, '_>) -> Option<DiskDef> {
    let (target, driver) = (disk.child("target"), disk.child("driver"));
    let source = disk.child("source");
    Some(DiskDef {
        target: target.attribute("dev")?,
        device: disk
            .attribute("device")
            .unwrap_or_else(|| "disk".to_owned()),
        kind: disk.attribute("type"),
        bus: target.attribute("bus"),
        driver_name: driver.attribute("name"),
        driver_type: driver.attribute("type"),
        cache: driver.attribute("cache"),
        discard: driver.attribute("discard"),
        source: SOURCE_ATTRIBUTES
            .iter()
            .find_map(|name| source.attribute(name)),
        source_protocol: source.attribute("protocol"),
        serial: disk.child("serial").text(),
        limits: parse_iotune(disk.child("iotune")),
    })
}

/// What a disk is held to; 0 is no limit.
fn parse_iotune(tune: Element<'_, '_>) -> Option<Box<IoTune>> {
    let limit = |rate, burst, length| IoLimit {
        rate: tune.child(rate).count(),
        burst: tune.child(burst).count(),
        burst_length: tune.child(length).count().map(Duration::from_secs),
    };
    let limits = IoTune {
        bytes: IoTuneLimits {
            total: limit(
                "total_bytes_sec",
                "total_bytes_sec_max",
                "total_bytes_sec_max_length",
            ),
            read: limit(
                "read_bytes_sec",
                "read_bytes_sec_max",
                "read_bytes_sec_max_length",
            ),
            write: limit(
                "write_bytes_sec",
                "write_bytes_sec_max",
                "write_bytes_sec_max_length",
            ),
        },
        requests: IoTuneLimits {
            total: limit(
                "total_iops_sec",
                "total_iops_sec_max",
                "total_iops_sec_max_length",
            ),
            read: limit(
                "read_iops_sec",
                "read_iops_sec_max",
                "read_iops_sec_max_length",
            ),
            write: limit(
                "write_iops_sec",
                "write_iops_sec_max",
                "write_iops_sec_max_length",
            ),
        },
        request_size: tune.child("size_iops_sec").count(),
    };
    (limits != IoTune::default()).then(|| limits.into())
}

fn parse_interface(interface: Element<'_, '_>) -> InterfaceDef {
    let source = interface.child("source");
    let port = interface.child("virtualport").child("parameters");
    InterfaceDef {
        target: interface.child("target").attribute("dev"),
        kind: interface.attribute("type").unwrap_or_default(),
        source_bridge: source.attribute("bridge"),
        source_network: source.attribute("network"),
        mac: interface.child("mac").attribute("address"),
        model: interface.child("model").attribute("type"),
        mtu: interface.child("mtu").number("size"),
        virtual_port: port.attribute("interfaceid"),
    }
}

fn parse_nova(metadata: Element<'_, '_>) -> Option<Nova> {
    let mut versions = NOVA_NAMESPACES.into_iter();
    let (version, instance) = versions.find_map(|version| {
        let instance = metadata.child_in(version, "instance");
        instance.0.is_some().then_some((version, instance))
    })?;
    let owner = instance.child_in(version, "owner");
    let (user, project) = (
        owner.child_in(version, "user"),
        owner.child_in(version, "project"),
    );
    let root = instance.child_in(version, "root");
    Some(Nova {
        name: instance.child_in(version, "name").text(),
        flavor: instance.child_in(version, "flavor").attribute("name"),
        user_name: user.text(),
        user_id: user.attribute("uuid"),
        project_name: project.text(),
        project_id: project.attribute("uuid"),
        root_type: root.attribute("type"),
        root_id: root.attribute("uuid"),
    })
}

/// An element, or that there is none, of which nothing is said.
#[derive(Clone, Copy)]
struct Element<'a, 'input>(Option<Node<'a, 'input>>);

impl Element<'_, '_> {
    /// Those right below it with this name, which is libvirt's.
    fn children(self, name: &'static str) -> impl Iterator<Item = Self> {
        self.named(name, None)
    }

    /// The first of them.
    fn child(self, name: &'static str) -> Self {
        self.first(name, None)
    }

    /// The first right below it with this name in a namespace.
    fn child_in(self, namespace: &'static str, name: &'static str) -> Self {
        self.first(name, Some(namespace))
    }

    fn first(self, name: &'static str, namespace: Option<&'static str>) -> Self {
        let mut named = self.named(name, namespace);
        named.next().unwrap_or(Self(None))
    }

    fn named(
        self,
        name: &'static str,
        namespace: Option<&'static str>,
    ) -> impl Iterator<Item = Self> {
        let below = self.0.into_iter().flat_map(|element| element.children());
        let named = below.filter(move |node| {
            let tag = node.tag_name();
            node.is_element() && (tag.name(), tag.namespace()) == (name, namespace)
        });
        named.map(|element| Self(Some(element)))
    }

    fn attribute(self, name: &str) -> Option<String> {
        let value = self.0?.attribute(name)?;
        (!value.is_empty()).then(|| truncate(value, MAX_TEXT))
    }

    fn number(self, name: &str) -> Option<u32> {
        let number = self.0?.attribute(name)?.parse().ok();
        number.filter(|number| *number > 0)
    }

    /// The number that it says, unless that is 0.
    fn count(self) -> Option<u64> {
        let number = self.text()?.parse().ok();
        number.filter(|number| *number > 0)
    }

    /// What it says, without white space around it.
    fn text(self) -> Option<String> {
        let texts = self.0?.children().filter_map(|node| {
            // A comment has a text too.
            node.is_text().then(|| node.text()).flatten()
        });
        let text: String = texts.collect();
        let text = text.trim();
        (!text.is_empty()).then(|| truncate(text, MAX_TEXT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// libvirt 9.0.0 about a guest of QEMU 7.2 that runs, trimmed.
    const RUNS: &str = r#"<domain type='qemu' id='1'>
  <name>a &quot;guest&quot; &amp; &lt;1&gt;</name>
  <uuid>5aa4950e-6a25-46ac-b4b9-b54b2b3ae355</uuid>
  <title>web &quot;front&quot; &amp; &lt;end&gt;</title>
  <description>line one
line two</description>
  <metadata>
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
      <nova:package version="25.2.1-1"/>
      <nova:name>vm "one"</nova:name>
      <nova:creationTime>2025-05-01 10:00:00</nova:creationTime>
      <nova:flavor name="m1.tiny">
        <nova:memory>512</nova:memory>
      </nova:flavor>
      <nova:owner>
        <nova:user uuid="0f2b">alice</nova:user>
        <nova:project uuid="9c1d">proj</nova:project>
      </nova:owner>
      <nova:root type="image" uuid="77aa"/>
    </nova:instance>
    <app:x xmlns:app="urn:app">
      <app:name>not nova</app:name>
    </app:x>
  </metadata>
  <memory unit='KiB'>98304</memory>
  <vcpu placement='static'>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>
    <boot dev='hd'/>
  </os>
  <clock offset='utc'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/img/g-a.qcow2' index='4'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
      <serial>S-1</serial>
      <alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/loop0' index='3'/>
      <backingStore/>
      <target dev='vdb' bus='virtio'/>
      <iotune>
        <total_bytes_sec>1000000</total_bytes_sec>
        <read_iops_sec>100</read_iops_sec>
        <read_iops_sec_max>500</read_iops_sec_max>
        <size_iops_sec>4096</size_iops_sec>
        <read_iops_sec_max_length>7</read_iops_sec_max_length>
      </iotune>
      <alias name='virtio-disk1'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu'/>
      <target dev='hdc' bus='ide'/>
      <readonly/>
      <alias name='ide0-1-0'/>
      <address type='drive' controller='0' bus='1' target='0' unit='0'/>
    </disk>
    <disk type='file' device='floppy'>
      <driver name='qemu' type='raw'/>
      <source file='/img/floppy' index='1'/>
      <backingStore/>
      <target dev='fda' bus='fdc'/>
      <alias name='fdc0-0-0'/>
    </disk>
    <controller type='usb' index='0' model='none'>
      <alias name='usb'/>
    </controller>
    <interface type='ethernet'>
      <mac address='52:54:00:11:22:01'/>
      <target dev='tap1'/>
      <model type='virtio'/>
      <mtu size='1450'/>
      <alias name='net0'/>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:11:22:02'/>
      <source bridge='br0'/>
      <target dev='tap2'/>
      <model type='virtio'/>
      <alias name='net1'/>
    </interface>
    <interface type='user'>
      <mac address='52:54:00:11:22:03'/>
      <model type='e1000'/>
      <alias name='net2'/>
    </interface>
    <audio id='1' type='none'/>
    <memballoon model='virtio'>
      <stats period='10'/>
      <alias name='balloon0'/>
    </memballoon>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'>
    <label>+0:+0</label>
  </seclabel>
</domain>
"#;

    /// The same about one that is defined, with what lies outside of the machine.
    const IS_OFF: &str = r"<domain type='qemu'>
  <name>net</name>
  <os>
    <type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>
  </os>
  <devices>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='writeback'/>
      <auth username='cinder'>
        <secret type='ceph' uuid='65264178-ac37-5d9a-9d66-bc590fddde8d'/>
      </auth>
      <source protocol='rbd' name='volumes/volume-1'>
        <host name='10.0.0.1' port='6789'/>
      </source>
      <target dev='sda' bus='scsi'/>
    </disk>
    <disk type='volume' device='lun'>
      <driver name='qemu' type='raw'/>
      <source pool='iscsi' volume='unit:0:0:1'/>
      <target dev='sdb' bus='scsi'/>
    </disk>
    <disk type='dir' device='floppy'>
      <driver name='qemu' type='fat'/>
      <source dir='/var/tmp'/>
      <target dev='fda' bus='fdc'/>
      <readonly/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:11:22:04'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
    <interface type='hostdev' managed='yes'>
      <mac address='52:54:00:11:22:05'/>
      <source>
        <address type='pci' domain='0x0000' bus='0x81' slot='0x10' function='0x2'/>
      </source>
      <vlan>
        <tag id='42'/>
      </vlan>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:11:22:06'/>
      <source bridge='br-int'/>
      <virtualport type='openvswitch'>
        <parameters interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/>
      </virtualport>
      <target dev='tap09b11c53-8b'/>
      <model type='virtio'/>
    </interface>
    <memballoon model='virtio'/>
  </devices>
</domain>
";

    #[expect(clippy::unnecessary_wraps, reason = "what is compared may be missing")]
    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_description_says_what_a_domain_is() {
        let about = parse_domain(RUNS).unwrap();
        assert_eq!(about.title, some(r#"web "front" & <end>"#));
        assert_eq!(about.os_type, some("hvm"));
        assert_eq!(about.arch, some("x86_64"));
        assert_eq!(about.machine, some("pc-i440fx-7.2"));
        assert_eq!(about.balloon_period, Some(10));
    }

    #[test]
    fn a_description_says_what_the_disks_are_with_or_without_a_medium() {
        let disk = |target: &str, device: &str, kind: &str, bus: &str| DiskDef {
            target: target.to_owned(),
            device: device.to_owned(),
            kind: some(kind),
            bus: some(bus),
            driver_name: some("qemu"),
            ..DiskDef::default()
        };
        let rate = |rate| IoLimit {
            rate: Some(rate),
            ..IoLimit::default()
        };
        let limits = IoTune {
            bytes: IoTuneLimits {
                total: rate(1_000_000),
                ..IoTuneLimits::default()
            },
            requests: IoTuneLimits {
                read: IoLimit {
                    burst: Some(500),
                    burst_length: Some(Duration::from_secs(7)),
                    ..rate(100)
                },
                ..IoTuneLimits::default()
            },
            request_size: Some(4096),
        };
        let expected = [
            DiskDef {
                driver_type: some("qcow2"),
                cache: some("none"),
                discard: some("unmap"),
                source: some("/img/g-a.qcow2"),
                serial: some("S-1"),
                ..disk("vda", "disk", "file", "virtio")
            },
            DiskDef {
                driver_type: some("raw"),
                source: some("/dev/loop0"),
                limits: Some(limits.into()),
                ..disk("vdb", "disk", "block", "virtio")
            },
            disk("hdc", "cdrom", "file", "ide"),
            DiskDef {
                driver_type: some("raw"),
                source: some("/img/floppy"),
                ..disk("fda", "floppy", "file", "fdc")
            },
        ];
        assert_eq!(parse_domain(RUNS).unwrap().disks, expected);
        let expected = [
            DiskDef {
                driver_type: some("raw"),
                cache: some("writeback"),
                source: some("volumes/volume-1"),
                source_protocol: some("rbd"),
                ..disk("sda", "disk", "network", "scsi")
            },
            DiskDef {
                driver_type: some("raw"),
                source: some("unit:0:0:1"),
                ..disk("sdb", "lun", "volume", "scsi")
            },
            DiskDef {
                driver_type: some("fat"),
                source: some("/var/tmp"),
                ..disk("fda", "floppy", "dir", "fdc")
            },
        ];
        assert_eq!(parse_domain(IS_OFF).unwrap().disks, expected);
    }

    #[test]
    fn a_description_says_each_limit_of_a_disk_and_0_is_none() {
        let of = |tune: &str| {
            let disk = format!("<disk><target dev='vda'/><iotune>{tune}</iotune></disk>");
            let xml = format!("<domain><devices>{disk}</devices></domain>");
            parse_domain(&xml).unwrap().disks[0].limits.clone()
        };
        let names = ["total_bytes", "read_bytes", "write_bytes"].into_iter();
        let names = names.chain(["total_iops", "read_iops", "write_iops"]);
        let tune: String = names
            .zip(1..)
            .flat_map(|(name, first)| {
                [("", 0), ("_max", 10), ("_max_length", 20)].map(|(end, more)| {
                    let (name, number) = (format!("{name}_sec{end}"), first + more);
                    format!("<{name}>{number}</{name}>")
                })
            })
            .collect();
        let limit = |first| IoLimit {
            rate: Some(first),
            burst: Some(first + 10),
            burst_length: Some(Duration::from_secs(first + 20)),
        };
        let limited = |first| IoTuneLimits {
            total: limit(first),
            read: limit(first + 1),
            write: limit(first + 2),
        };
        let expected = IoTune {
            bytes: limited(1),
            requests: limited(4),
            request_size: None,
        };
        assert_eq!(of(&tune), Some(expected.into()));
        assert_eq!(of(""), None);
        assert_eq!(of("<total_bytes_sec>0</total_bytes_sec>"), None);
        assert_eq!(of("<total_bytes_sec>-1</total_bytes_sec>"), None);
    }

    #[test]
    fn a_description_says_what_the_interfaces_are_with_or_without_a_name() {
        let interface = |kind: &str, end: u8| InterfaceDef {
            kind: kind.to_owned(),
            mac: Some(format!("52:54:00:11:22:0{end}")),
            model: some("virtio"),
            ..InterfaceDef::default()
        };
        let expected = [
            InterfaceDef {
                target: some("tap1"),
                mtu: Some(1450),
                ..interface("ethernet", 1)
            },
            InterfaceDef {
                target: some("tap2"),
                source_bridge: some("br0"),
                ..interface("bridge", 2)
            },
            InterfaceDef {
                model: some("e1000"),
                ..interface("user", 3)
            },
        ];
        assert_eq!(parse_domain(RUNS).unwrap().interfaces, expected);
        let expected = [
            InterfaceDef {
                source_network: some("default"),
                ..interface("network", 4)
            },
            InterfaceDef {
                model: None,
                ..interface("hostdev", 5)
            },
            InterfaceDef {
                target: some("tap09b11c53-8b"),
                source_bridge: some("br-int"),
                virtual_port: some("09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"),
                ..interface("bridge", 6)
            },
        ];
        assert_eq!(parse_domain(IS_OFF).unwrap().interfaces, expected);
    }

    #[test]
    fn nova_says_whose_instance_a_domain_is() {
        let expected = Nova {
            name: some("vm \"one\""),
            flavor: some("m1.tiny"),
            user_name: some("alice"),
            user_id: some("0f2b"),
            project_name: some("proj"),
            project_id: some("9c1d"),
            root_type: some("image"),
            root_id: some("77aa"),
        };
        assert_eq!(parse_domain(RUNS).unwrap().nova, Some(expected.clone()));
        let older = RUNS.replace("nova/1.1", "nova/1.0");
        assert_eq!(parse_domain(&older).unwrap().nova, Some(expected));
        let others = RUNS.replace("nova/1.1", "nova/else");
        assert_eq!(parse_domain(&others).unwrap().nova, None);
    }

    #[test]
    fn what_a_description_does_not_say_is_not_known() {
        assert_eq!(parse_domain("<domain/>").unwrap(), DomainDef::default());
        let empty = "<domain><title> </title><os><type arch=''/></os><devices>\
            <disk/><disk><target dev=''/></disk>\
            <memballoon><stats period='0'/></memballoon></devices></domain>";
        assert_eq!(parse_domain(empty).unwrap(), DomainDef::default());
        let bare =
            parse_domain("<domain><devices><disk><target dev='vda'/></disk></devices></domain>");
        assert_eq!(bare.unwrap().disks[0].device, "disk");
    }

    #[test]
    fn a_text_that_never_ends_is_cut() {
        let long = "ü".repeat(100_000);
        let title = format!("<title>{long}</title>");
        let disk = format!("<disk><target dev='vda'/><source file='{long}'/></disk>");
        let xml = format!("<domain>{title}<devices>{disk}</devices></domain>");
        let about = parse_domain(&xml).unwrap();
        let expected = some(&"ü".repeat(MAX_TEXT));
        assert_eq!(about.title, expected);
        assert_eq!(about.disks[0].source, expected);
    }

    #[test]
    fn what_is_not_known_here_is_passed_over() {
        let strange = "<domain xmlns:q='urn:q'><q:title>no</q:title><os><q:type>no</q:type></os>\
            <title>a<!-- no -->\nb<![CDATA[ <c>]]></title>\
            <devices><new><disk><target dev='no'/></disk></new>\
            <disk new='1'><mirror><source file='no'/></mirror><target dev='vda'/></disk></devices>\
            <new:er xmlns:new='urn:new'/></domain>";
        let about = parse_domain(strange).unwrap();
        assert_eq!(about.title, some("a\nb <c>"));
        assert_eq!(about.os_type, None);
        assert_eq!(about.disks.len(), 1);
        assert_eq!(about.disks[0].source, None);
    }

    #[test]
    fn what_is_no_description_is_an_error_on_one_line() {
        let is_error = |xml: &str| {
            let error = parse_domain(xml).unwrap_err();
            assert!(error.starts_with("a domain's description: "), "{error}");
            assert!(!error.contains('\n') && error.len() <= MAX_ERROR, "{error}");
        };
        for xml in [
            "",
            "x",
            "<domain>",
            "<domainsnapshot/>",
            "<domain><a></b></domain>",
            "<\0>",
        ] {
            is_error(xml);
        }
        is_error("<!DOCTYPE a [<!ENTITY b 'c'>]><domain><title>&b;</title></domain>");
        is_error(&format!("<domain><{}:a/></domain>", "b".repeat(1000)));
        for end in 0..RUNS.trim_end().len() {
            is_error(RUNS.get(..end).unwrap());
        }
    }

    #[test]
    fn a_description_that_would_take_long_to_read_is_refused() {
        let numbered = |start: &str, each: fn(usize) -> String, end: &str| {
            let middle: String = (0..100_000).map(each).collect();
            format!("<domain>{start}{middle}{end}</domain>")
        };
        let too_long = "x".repeat(MAX_BYTES);
        assert!(parse_domain(&format!("<domain><title>{too_long}</title></domain>")).is_err());
        assert!(parse_domain(&numbered("", |_| "<a/>".to_owned(), "")).is_err());
        assert!(parse_domain(&numbered("<a b='>' ", |i| format!("c{i}='' "), "/>")).is_err());
        assert!(parse_domain(&numbered("", |i| format!("<a xmlns:n{i}='u'/>"), "")).is_err());
        // These are not.
        let deep = format!("{}{}", "<a>".repeat(50_000), "</a>".repeat(50_000));
        assert!(parse_domain(&format!("<domain>{deep}</domain>")).is_ok());
        assert!(parse_domain(&numbered("<title>", |i| format!("a={i} "), "</title>")).is_ok());
    }
}
