//! Static files of pages. Their path contains a hash of their content, so browsers may cache them
//! forever.

use sha2::{Digest, Sha256};

use super::{PAGE_CSP, PageResponse};

struct Asset {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const ASSETS: [Asset; 3] = [
    Asset {
        name: "style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("assets/style.css"),
    },
    Asset {
        name: "page.js",
        content_type: "text/javascript; charset=utf-8",
        text: include_str!("assets/page.js"),
    },
    Asset {
        name: "icon.svg",
        content_type: "image/svg+xml",
        text: include_str!("assets/icon.svg"),
    },
];

/// All assets, below the hash of their content.
#[derive(Debug)]
pub(super) struct Assets {
    hash: String,
}

impl Assets {
    pub(super) fn new() -> Self {
        let mut hash = Sha256::new();
        for asset in &ASSETS {
            hash.update(asset.text);
        }
        let bytes = hash.finalize();
        let hex = bytes.iter().take(8).map(|byte| format!("{byte:02x}"));
        Self {
            hash: hex.collect(),
        }
    }

    /// Path of an asset.
    pub(super) fn path(&self, name: &str) -> String {
        format!("/page/{}/{name}", self.hash)
    }

    /// The response at a path below `/page/`.
    pub(super) fn respond(&self, path: &str) -> Option<PageResponse> {
        let (hash, name) = path.split_once('/')?;
        let asset = ASSETS.iter().find(|asset| asset.name == name)?;
        Some(PageResponse {
            status: 200,
            content_type: asset.content_type,
            content_security_policy: PAGE_CSP,
            // Requests for another version get this one, but must not cache it forever.
            is_immutable: hash == self.hash,
            body: asset.text.as_bytes().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asset_paths_contain_content_hash() {
        let assets = Assets::new();
        for asset in &ASSETS {
            let path = assets.path(asset.name);
            let response = assets
                .respond(path.strip_prefix("/page/").unwrap())
                .unwrap();
            assert!(response.is_immutable && !response.body.is_empty(), "{path}");
        }
        assert!(!assets.respond("0/style.css").unwrap().is_immutable);
        for path in ["", "style.css", "0/", "0/mod.rs", "0/../style.css"] {
            assert!(assets.respond(path).is_none(), "{path}");
        }
    }

    #[test]
    fn assets_load_nothing_external() {
        for asset in &ASSETS {
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            for external in ["http:", "https:", "//cdn", "@import", "url("] {
                assert!(!text.contains(external), "{}: {external}", asset.name);
            }
        }
    }
}
