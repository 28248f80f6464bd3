//! Properties of a virtual machine from its domain XML, including `OpenStack`'s metadata.

use super::labels::{DOMAIN, LabelledDomain};
use crate::{family::Families, metrics, sources::libvirt::Nova};

metrics! {
    /// Properties of the domain: always 1. The id changes with each start and is empty while the
    /// domain is not running.
    INFO: Info = "libvirt_domain_info" base DOMAIN ["os_type", "os_type_arch", "os_type_machine", "uuid", "id", "title"];
    /// OpenStack metadata of the instance: always 1; absent without metadata.
    OPENSTACK_INFO: Info = "libvirt_domain_openstack_info" base DOMAIN ["instance_name", "instance_id", "flavor_name", "user_name", "user_id", "project_name", "project_id"];
    /// UUID and OpenStack metadata of the domain, empty without metadata: always 1.
    META: Gauge = "libvirt_domain_info_meta" base DOMAIN ["uuid", "instance_name", "flavor", "user_name", "user_uuid", "project_name", "project_uuid", "root_type", "root_uuid"];
}

pub(super) fn collect_into(out: &mut Families, labelled: &LabelledDomain<'_>) {
    let domain = labelled.domain;
    let metadata = domain.definition.as_deref();
    let [os_type, arch, machine, title] = match metadata {
        Some(definition) => [
            &definition.os_type,
            &definition.arch,
            &definition.machine,
            &definition.title,
        ]
        .map(text_or_empty),
        None => [""; 4],
    };
    let id = domain.id.map(|id| id.to_string()).unwrap_or_default();
    let labels = [os_type, arch, machine, &domain.uuid, &id, title];
    out.add_with(&INFO, &labelled.base, labels, true);

    let nova = metadata.and_then(|definition| definition.nova.as_ref());
    if let (Some(nova), true) = (nova, labelled.compat.inovex) {
        let labels = [
            text_or_empty(&nova.name),
            &domain.uuid,
            text_or_empty(&nova.flavor),
            text_or_empty(&nova.user_name),
            text_or_empty(&nova.user_id),
            text_or_empty(&nova.project_name),
            text_or_empty(&nova.project_id),
        ];
        out.add_with(&OPENSTACK_INFO, &labelled.base, labels, true);
    }
    if labelled.compat.tinkoff {
        let empty = Nova::default();
        let nova = nova.unwrap_or(&empty);
        let labels = [
            domain.uuid.as_str(),
            text_or_empty(&nova.name),
            text_or_empty(&nova.flavor),
            text_or_empty(&nova.user_name),
            text_or_empty(&nova.user_id),
            text_or_empty(&nova.project_name),
            text_or_empty(&nova.project_id),
            text_or_empty(&nova.root_type),
            text_or_empty(&nova.root_id),
        ];
        out.add_with(&META, &labelled.base, labels, true);
    }
}

/// The label value, empty if unknown.
#[expect(clippy::ref_option, reason = "the domain XML has this type")]
pub(super) fn text_or_empty(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::testing, *};
    use crate::sources::libvirt::{Domain, DomainDef};

    #[test]
    fn openstack_instance_has_both_info_metrics() {
        let definition = DomainDef {
            title: Some("The \"web\"\nserver".to_owned()),
            os_type: Some("hvm".to_owned()),
            arch: Some("x86_64".to_owned()),
            machine: Some("pc-q35-7.2".to_owned()),
            nova: Some(Nova {
                name: Some("web-1".to_owned()),
                flavor: Some("m1.tiny".to_owned()),
                user_name: Some("alice".to_owned()),
                user_id: Some("a11".to_owned()),
                project_name: Some("shop".to_owned()),
                project_id: Some("b22".to_owned()),
                root_type: Some("image".to_owned()),
                root_id: Some("c33".to_owned()),
            }),
            ..DomainDef::default()
        };
        let domain = Domain {
            id: Some(7),
            definition: Some(Arc::new(definition)),
            ..testing::domain("instance-0001")
        };
        let uuid = testing::UUID;
        assert_eq!(
            testing::lines(&domain, "inovex,tinkoff", collect_into),
            [
                format!(
                    r#"libvirt_domain_info{{domain="instance-0001",os_type="hvm",os_type_arch="x86_64",os_type_machine="pc-q35-7.2",uuid="{uuid}",id="7",title="The \"web\"\nserver"}} 1"#
                ),
                format!(
                    r#"libvirt_domain_openstack_info{{domain="instance-0001",instance_name="web-1",instance_id="{uuid}",flavor_name="m1.tiny",user_name="alice",user_id="a11",project_name="shop",project_id="b22"}} 1"#
                ),
                format!(
                    r#"libvirt_domain_info_meta{{domain="instance-0001",uuid="{uuid}",instance_name="web-1",flavor="m1.tiny",user_name="alice",user_uuid="a11",project_name="shop",project_uuid="b22",root_type="image",root_uuid="c33"}} 1"#
                ),
            ]
        );
    }

    #[test]
    fn domain_without_xml_still_has_uuid() {
        let lines = testing::lines(&testing::domain("web"), "inovex", collect_into);
        let uuid = testing::UUID;
        let labels = r#"domain="web",os_type="",os_type_arch="",os_type_machine="""#;
        let line = format!(r#"libvirt_domain_info{{{labels},uuid="{uuid}",id="",title=""}} 1"#);
        assert_eq!(lines, [line]);
    }
}
