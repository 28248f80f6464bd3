//! IP routes of all routing tables, from rtnetlink, documented in `rtnetlink(7)`.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Link, Route, Snapshot},
};

metrics! {
    /// Unicast routes, one series per next hop, value is always 1; expensive on routers with a full
    /// table.
    ROUTE_INFO: Info = "node_network_route_info" ["device", "src", "dest", "gw", "priority", "proto", "weight"];
    /// Number of unicast routes and next hops of multipath routes by outgoing interface.
    ROUTES: Gauge = "node_network_routes" ["device"];
}

#[derive(Debug)]
pub(super) struct NetworkRoute;

impl Collector for NetworkRoute {
    const NAME: &'static str = "network_route";
    const ABOUT: &'static str = "IP routes";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(snapshot.links()?, &snapshot.routes()?))
    }
}

fn families(links: &[Link], routes: &[Route]) -> Families {
    let mut out = Families::default();
    let mut by_device = BTreeMap::<&str, u64>::new();
    // Two tables can contain the same route, and the table is not a label.
    let mut seen = HashSet::new();
    for route in routes {
        let Some(link) = Link::find(links, route.ifindex) else {
            continue;
        };
        *by_device.entry(&link.name).or_default() += 1;
        let labels = [
            link.name.clone(),
            ip_text(route.source),
            route.destination.map_or_else(
                || "default".to_owned(),
                |(network, prefix)| format!("{network}/{prefix}"),
            ),
            ip_text(route.gateway),
            route.priority.to_string(),
            route.protocol_name().to_owned(),
            route.weight.map_or_else(String::new, |w| w.to_string()),
        ];
        if !seen.contains(&labels) {
            out.add(&ROUTE_INFO, labels.each_ref().map(String::as_str), true);
            seen.insert(labels);
        }
    }
    for (device, routes) in by_device {
        out.add(&ROUTES, [device], routes);
    }
    out
}

fn ip_text(ip: Option<IpAddr>) -> String {
    ip.map_or_else(String::new, |ip| ip.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_route_in_two_tables_is_one_series_and_two_routes() {
        let link = Link {
            ifindex: 3,
            name: "eth0".to_owned(),
            ..Link::default()
        };
        let route = Route {
            destination: Some(([10, 0, 0, 0].into(), 8)),
            source: None,
            gateway: None,
            ifindex: 3,
            priority: 0,
            protocol: 4,
            weight: None,
        };
        let gone = Route {
            ifindex: 4,
            ..route
        };
        let out = families(&[link], &[route, route, gone]);
        assert_eq!(
            out.lines(),
            [
                "node_network_route_info{device=\"eth0\",src=\"\",dest=\"10.0.0.0/8\",gw=\"\",\
                 priority=\"0\",proto=\"static\",weight=\"\"} 1",
                r#"node_network_routes{device="eth0"} 2"#,
            ]
        );
    }
}
