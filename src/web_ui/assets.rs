//! The files that pages bring. Their path changes with what is in them, so that browsers
//! may keep them for ever.

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

/// All of them, by the hash of what is in them.
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

    /// The path of one of them.
    pub(super) fn path(&self, name: &str) -> String {
        format!("/page/{}/{name}", self.hash)
    }

    /// The answer at a path behind `/page/`.
    pub(super) fn respond(&self, path: &str) -> Option<PageResponse> {
        let (hash, name) = path.split_once('/')?;
        let asset = ASSETS.iter().find(|asset| asset.name == name)?;
        Some(PageResponse {
            status: 200,
            content_type: asset.content_type,
            content_security_policy: PAGE_CSP,
            // One of another version is answered, but not for ever.
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
            let answer = assets
                .respond(path.strip_prefix("/page/").unwrap())
                .unwrap();
            assert!(answer.is_immutable && !answer.body.is_empty(), "{path}");
        }
        assert!(!assets.respond("0/style.css").unwrap().is_immutable);
        for nothing in ["", "style.css", "0/", "0/mod.rs", "0/../style.css"] {
            assert!(assets.respond(nothing).is_none(), "{nothing}");
        }
    }

    #[test]
    fn assets_load_nothing_external() {
        for asset in &ASSETS {
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            for elsewhere in ["http:", "https:", "//cdn", "@import", "url("] {
                assert!(!text.contains(elsewhere), "{}: {elsewhere}", asset.name);
            }
        }
    }
}
