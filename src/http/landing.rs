//! The page at `/`: where the metrics are.

use std::fmt::Write;

use crate::collector::Layer;

/// Only what the page itself brings, and nothing that runs.
pub(super) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page, for these collectors.
pub(super) fn page(telemetry_path: &str, collectors: &[&str]) -> String {
    let path = escape(telemetry_path.trim_end_matches('/'));
    let mut page = String::new();
    page += "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    page += "<title>strata_exporter</title>\n<style>\n";
    page += ":root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5 }\n";
    page += "body { max-width: 44rem; margin: 2rem auto; padding: 0 1rem }\n";
    page += "h1 { margin-bottom: 0 } h1 + p { margin-top: 0; opacity: .75 }\n";
    page +=
        "li { margin: .25rem 0 } .collectors a { display: inline-block; margin-right: .8rem }\n";
    page += "</style>\n</head>\n<body>\n<h1>strata_exporter</h1>\n";
    page += &format!("<p>Version {}</p>\n", env!("CARGO_PKG_VERSION"));
    page += "<p>One Prometheus exporter for every layer of a machine.</p>\n<ul>\n";
    page += &format!("<li><a href=\"{path}\">Metrics</a>: what Prometheus scrapes</li>\n");
    for layer in Layer::ALL {
        let (name, about) = (layer.name(), layer.about());
        page += &format!("<li><a href=\"{path}/{name}\">{path}/{name}</a>: {about}</li>\n");
    }
    page += "<li><a href=\"/api/v1/openapi.json\">/api/v1</a>: the same machine as JSON</li>\n";
    page += "<li><a href=\"/-/healthy\">Healthy</a> and <a href=\"/-/ready\">ready</a></li>\n";
    page += "</ul>\n<h2>Collectors that are on</h2>\n<p class=\"collectors\">\n";
    for name in collectors {
        // Cannot fail: a String takes everything.
        writeln!(page, "<a href=\"{path}?collect[]={name}\">{name}</a>").ok();
    }
    page + "</p>\n</body>\n</html>\n"
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_from_a_flag_cannot_leave_its_place() {
        let page = page("/a\"><script>", &["cpu"]);
        assert!(!page.contains("<script>"));
        assert!(page.contains("/containers\">"));
        assert!(page.contains("href=\"/a&quot;&gt;&lt;script&gt;?collect[]=cpu\">cpu</a>"));
    }
}
