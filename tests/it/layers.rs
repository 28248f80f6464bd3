//! The invariants of ARCHITECTURE.md: a module uses only modules of lower layers, only
//! `sources` contains kernel paths, and only two files contain unsafe code.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The layers as the table in ARCHITECTURE.md lists them, the lowest first. A module uses only
/// modules of lower layers; modules of one layer do not use each other.
fn layers() -> &'static [Vec<String>] {
    static LAYERS: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
        let text = fs::read_to_string(path).unwrap();
        let (_, rest) = text.split_once("<!-- layers -->\n").unwrap();
        let (table, _) = rest.split_once("<!-- /layers -->\n").unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let modules = row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2);
            modules.map(str::to_owned).collect()
        })
        .collect()
    });
    &LAYERS
}

/// The reviewed files. Clippy's `undocumented_unsafe_blocks` requires a safety comment on each
/// block.
const UNSAFE: &[&str] = &["src/sources/libvirt/virt/ffi.rs", "src/sources/syscall.rs"];

/// A source file.
struct File {
    path: PathBuf,
    /// Module path: `["sources", "dir"]`.
    module: Vec<String>,
    code: String,
}

#[test]
fn every_module_has_its_layer() {
    let lib = File::read(src().join("lib.rs"));
    let declared = lib.code.lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    let mut declared: Vec<_> = declared.collect();
    let mut layered: Vec<_> = layers().concat();
    declared.sort_unstable();
    layered.sort_unstable();
    assert_eq!(declared, layered);
}

#[test]
fn modules_use_lower_layers_only() {
    let mut uses = 0;
    for file in files().iter().filter(|file| file.layer().is_some()) {
        for used in used_modules(&file.code, file.module.len()) {
            // Other names are items of the crate root, such as a macro.
            let Some(layer) = layer_of(&used) else {
                continue;
            };
            uses += 1;
            assert!(
                file.module[0] == used || Some(layer) < file.layer(),
                "{} uses {used}, which is not in a lower layer",
                file.path.display()
            );
        }
    }
    assert!(uses > 20, "only {uses} uses were found");
}

#[test]
fn only_sources_contain_kernel_paths() {
    for file in files() {
        if file
            .module
            .first()
            .is_some_and(|module| module == "sources")
        {
            continue;
        }
        let shipped = file.code.split("#[cfg(test)]\nmod tests").next();
        for (number, line) in shipped.unwrap_or_default().lines().enumerate() {
            let found = mounts(line);
            assert!(
                found.is_none(),
                "{}:{}: {line}",
                file.path.display(),
                number + 1
            );
        }
    }
}

#[test]
fn unsafe_is_only_in_reviewed_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Concatenated, so that this file does not match.
    let (keyword, lint) = (concat!("un", "safe "), concat!("un", "safe_code"));
    let all = ["src", "tests"]
        .map(|dir| files_in(root.join(dir)))
        .concat();
    let is_found = |path: &&PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().map(without_comment);
        lines.any(|line| line.contains(keyword) || line.contains(lint))
    };
    let found = all.iter().filter(is_found);
    let found = found.map(|path| path.strip_prefix(root).unwrap().display().to_string());
    let mut found: Vec<_> = found.collect();
    found.sort_unstable();
    assert_eq!(found, UNSAFE);
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for setting in [
        format!("{lint} = \"deny\""),
        "undocumented_unsafe_blocks = \"deny\"".to_owned(),
    ] {
        assert!(manifest.contains(&setting), "{setting}");
    }
}

#[test]
fn all_forms_of_use_are_parsed() {
    let code = "use crate::{\n    error::{Error, Result},\n    family::Families, sources,\n};\n\
                fn x() -> crate::scrape::Report { super::super::http::y(super::z()) }\n\
                use $crate::metric::Desc; mod tests { use super::super::log; }\n";
    assert_eq!(
        used_modules(code, 2),
        [
            "error", "family", "sources", "scrape", "metric", "http", "log"
        ]
    );
    assert_eq!(used_modules("use super::error::Error;", 1), ["error"]);
    assert!(used_modules("use super::error::Error;", 2).is_empty());
    assert!(
        used_modules("// like crate::http\nuse other_crate::http;", 1).contains(&"http".into())
    );
}

#[test]
fn kernel_paths_are_distinguished_from_words() {
    for line in [r#"open("/proc/stat")"#, r#""/sys""#, r"in /sys/class"] {
        assert!(mounts(line).is_some(), "{line}");
    }
    for line in [
        r#"sys_dir("devices/system/cpu")"#,
        r#""/process""#,
        "/// Of /proc/stat.",
    ] {
        assert!(mounts(&without_comment(line)).is_none(), "{line}");
    }
}

impl File {
    fn read(path: PathBuf) -> Self {
        let relative = path.strip_prefix(src()).unwrap().with_extension("");
        let mut module: Vec<_> = relative
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect();
        if matches!(
            module.last().map(String::as_str),
            Some("mod" | "lib" | "main")
        ) {
            module.pop();
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().map(without_comment);
        Self {
            code: code.collect::<Vec<_>>().join("\n"),
            path,
            module,
        }
    }

    fn layer(&self) -> Option<usize> {
        layer_of(self.module.first()?)
    }
}

fn layer_of(module: &str) -> Option<usize> {
    layers()
        .iter()
        .position(|layer| layer.iter().any(|it| it == module))
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files() -> Vec<File> {
    let files: Vec<_> = files_in(src()).into_iter().map(File::read).collect();
    assert!(files.len() > 20, "only {} files were found", files.len());
    files
}

/// Rust files below a directory.
fn files_in(dir: PathBuf) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            // Links are not followed.
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// Returns the line, or an empty string for a comment line. Trailing comments remain.
fn without_comment(line: &str) -> String {
    let is_comment = line.trim_start().starts_with("//");
    if is_comment { "" } else { line }.to_owned()
}

/// Position of the first `/proc` or `/sys` that begins a path.
fn mounts(line: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    ["/proc", "/sys"].into_iter().find_map(|mount| {
        let mut found = line.match_indices(mount);
        let found = found.find(|(at, _)| {
            let (before, rest) = line.split_at(*at);
            let after = rest.strip_prefix(mount).unwrap_or_default();
            !before.ends_with(is_word) && !after.starts_with(is_word)
        });
        found.map(|(at, _)| at)
    })
}

/// The modules of the crate, or other items of its root, that code `depth` modules
/// deep names: first those after `crate::`, then those after enough of `super::`.
fn used_modules(code: &str, depth: usize) -> Vec<String> {
    let mut used = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let (before, rest) = code.split_at(at);
        let is_whole = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if is_whole {
            used.extend(heads(rest.strip_prefix(found).unwrap_or_default()));
        }
    }
    let mut rest = code;
    while let Some((_, after)) = rest.split_once("super::") {
        let mut supers = 1;
        rest = after;
        while let Some(after) = rest.strip_prefix("super::") {
            supers += 1;
            rest = after;
        }
        // A module in the same file, such as `tests`, is one deeper.
        if supers >= depth {
            used.extend(heads(rest));
        }
    }
    used
}

/// The first names of a path, or of a tree of paths in braces.
fn heads(code: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start();
        let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
        text.chars().take_while(is_name).collect()
    };
    let Some(tree) = code.strip_prefix('{') else {
        return vec![name(code)];
    };
    let mut heads = vec![name(tree)];
    let mut depth = 0;
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(name(tree.split_at(at + 1).1)),
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}
