//! Laws of the repository that a test can hold: headers, arrows between crates, citations, links, sizes.
//!
//! Each law looks at every file that git tracks or would track and names file and line of each breach, so that one
//! run shows all there is to do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The crates from bottom to top: one may depend on those of lower layers only.
const LAYERS: [&[&str]; 6] = [
    &["dml-kernels"],
    &["phi"],
    &["bregman"],
    &["dml-loss", "dml-retrieval", "dml-data"],
    &["dml"],
    &["xtask", "fuzz"],
];
/// Macros that mark unfinished work.
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];
/// The one crate with unsafe code.
const UNSAFE_IN: &str = "crates/dml-kernels/";
/// How many lines above unsafe code the reason may stand.
const REASON_WITHIN: usize = 4;
const BIBLIOGRAPHY: &str = "docs/references.bib";
const LARGEST_BYTES: u64 = 2 << 20;

#[test]
fn every_source_file_says_what_it_is() -> Result<()> {
    let mut faults = Vec::new();
    for (path, text) in Repository::open()?.sources()? {
        if !text.starts_with("//!") {
            faults
                .push(format!("{path}:1: begins without `//!`, expected a line that says what the file is"));
        }
        if path.ends_with("/mod.rs") {
            faults.push(format!(
                "{path}:1: is called mod.rs, expected a file beside the folder, named like it"
            ));
        }
    }
    none(&faults);
    Ok(())
}

#[test]
fn dependencies_point_down() -> Result<()> {
    let repository = Repository::open()?;
    let mut faults = Vec::new();
    for path in repository.matching(|path| path.ends_with("/Cargo.toml")) {
        faults.extend(upward_arrows(path, &repository.read(path)?));
    }
    none(&faults);
    Ok(())
}

#[test]
fn citation_keys_and_bibliography_agree() -> Result<()> {
    let repository = Repository::open()?;
    let mut cited = BTreeMap::new(); // key → where first
    for path in repository.matching(|path| [".rs", ".md", ".toml"].iter().any(|end| path.ends_with(end))) {
        let text = repository.read(path)?;
        for (line, key) in citations(path, &text) {
            cited.entry(key).or_insert_with(|| format!("{path}:{line}"));
        }
    }
    let text = repository.read(BIBLIOGRAPHY)?;
    let mut faults = Vec::new();
    let mut listed = BTreeMap::new(); // key → line
    for (line, key) in entries(&text) {
        if let Some(first) = listed.insert(key.clone(), line) {
            faults.push(format!("{BIBLIOGRAPHY}:{line}: `{key}` is there already, at line {first}"));
        }
    }
    for (key, place) in &cited {
        if !listed.contains_key(key) {
            faults.push(format!("{place}: cites `{key}`, which {BIBLIOGRAPHY} lacks"));
        }
    }
    for (key, line) in &listed {
        if !cited.contains_key(key) {
            faults.push(format!("{BIBLIOGRAPHY}:{line}: nothing cites `{key}`; cite it or delete the entry"));
        }
    }
    none(&faults);
    Ok(())
}

#[test]
fn every_crate_has_a_readme() -> Result<()> {
    let repository = Repository::open()?;
    let missing = |path: &&str| !repository.root.join(path.replace("Cargo.toml", "README.md")).exists();
    let manifests = repository.matching(|path| path.starts_with("crates/") && path.ends_with("/Cargo.toml"));
    let faults: Vec<_> = manifests
        .filter(missing)
        .map(|path| format!("{path}:1: the crate has no README.md beside this file"))
        .collect();
    none(&faults);
    Ok(())
}

#[test]
fn nothing_is_left_unfinished() -> Result<()> {
    let mut faults = Vec::new();
    for (path, text) in Repository::open()?.sources()? {
        for (line, code) in code_lines(&text) {
            for name in UNFINISHED {
                if code.contains(&format!("{name}!(")) {
                    faults.push(format!("{path}:{line}: `{name}!` marks unfinished work; finish it"));
                }
            }
        }
    }
    none(&faults);
    Ok(())
}

#[test]
fn unsafe_code_lives_in_one_crate_and_says_why() -> Result<()> {
    let mut faults = Vec::new();
    for (path, text) in Repository::open()?.sources()? {
        faults.extend(unexplained_unsafe(&path, &text));
    }
    none(&faults);
    Ok(())
}

#[test]
fn relative_links_lead_somewhere() -> Result<()> {
    let repository = Repository::open()?;
    let mut faults = Vec::new();
    for path in repository.matching(|path| path.ends_with(".md")) {
        let folder = repository.root.join(path).parent().map(Path::to_owned).unwrap_or_default();
        for (line, target) in links(&repository.read(path)?) {
            if !folder.join(&target).exists() {
                faults.push(format!("{path}:{line}: links to `{target}`, which does not exist"));
            }
        }
    }
    none(&faults);
    Ok(())
}

#[test]
fn no_file_is_large() -> Result<()> {
    let repository = Repository::open()?;
    let mut faults = Vec::new();
    for path in repository.matching(|_| true) {
        let size_bytes =
            std::fs::metadata(repository.root.join(path)).with_context(|| path.to_owned())?.len();
        if size_bytes > LARGEST_BYTES {
            faults.push(format!("{path}: has {size_bytes} bytes, expected at most {LARGEST_BYTES}"));
        }
    }
    none(&faults);
    Ok(())
}

/// The files that git tracks or would track, as sorted paths from the root with `/`.
struct Repository {
    root: PathBuf,
    files: BTreeSet<String>,
}

impl Repository {
    fn open() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
        let listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let found = Command::new("git").current_dir(root).args(listing).output();
        let files = match found {
            Ok(output) if output.status.success() => {
                let listed =
                    String::from_utf8(output.stdout).context("git lists a path that is not UTF-8")?;
                // A file that was deleted but not yet committed is still listed.
                listed
                    .split_terminator('\0')
                    .filter(|path| root.join(path).is_file())
                    .map(str::to_owned)
                    .collect()
            }
            _ => {
                // An unpacked archive: everything but what builds and runs leave behind.
                let mut files = BTreeSet::new();
                walk(root, "", &mut files)?;
                files
            }
        };
        Ok(Self { root: root.to_owned(), files })
    }

    fn matching(&self, keep: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).filter(move |path| keep(path))
    }

    fn read(&self, path: &str) -> Result<String> {
        std::fs::read_to_string(self.root.join(path)).with_context(|| format!("{path}: cannot be read"))
    }

    /// The Rust files under `src`, with their text.
    fn sources(&self) -> Result<Vec<(String, String)>> {
        let source = |path: &str| path.ends_with(".rs") && path.contains("/src/");
        self.matching(source).map(|path| Ok((path.to_owned(), self.read(path)?))).collect()
    }
}

fn walk(root: &Path, folder: &str, files: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if entry.file_type()?.is_file() {
            files.insert(path);
        } else if !(folder.is_empty() && [".git", ".dml", "target", "runs"].contains(&name.as_str())) {
            walk(root, &path, files)?;
        }
    }
    Ok(())
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "{} to put right:\n{}", faults.len(), faults.join("\n"));
}

/// Numbered lines that are not comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines().map(str::trim_start));
    lines.filter(|(_, line)| !line.starts_with("//"))
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

/// Dependencies of a manifest on crates that do not lie below it; tests may use their own crate.
fn upward_arrows(path: &str, manifest: &str) -> Vec<String> {
    let name = path.rsplit('/').nth(1).unwrap_or_default();
    let Some(own) = layer(name) else {
        return vec![format!("{path}:1: `{name}` has no layer; give it one in xtask/src/tidy.rs")];
    };
    let (mut section, mut faults) = ("", Vec::new());
    for (line, text) in (1..).zip(manifest.lines().map(str::trim)) {
        if let Some(header) = text.strip_prefix('[') {
            section = header.trim_end_matches(']');
            continue;
        }
        let key = text.split(['.', '=', ' ']).next().unwrap_or_default();
        let depends = section.ends_with("dependencies");
        let Some(other) = layer(key).filter(|_| depends) else { continue };
        let itself = key == name && section == "dev-dependencies";
        if other >= own && !itself {
            faults.push(format!("{path}:{line}: `{name}` depends on `{key}`, which does not lie below it"));
        }
    }
    faults
}

/// Whether a word has the form of a citation key: a name, a year, perhaps a suffix.
fn is_key(word: &str) -> bool {
    let name = word.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let suffix = name.trim_start_matches(|c: char| c.is_ascii_digit());
    name.len() < word.len()
        && name.len() == suffix.len() + 4
        && suffix.chars().all(|c| c.is_ascii_lowercase())
}

/// Numbered citation keys: between escaped brackets in code, also between plain ones in Markdown, and the value of
/// `citation` in TOML.
fn citations(path: &str, text: &str) -> Vec<(usize, String)> {
    let (open, close) = ("\\[", "\\]");
    let mut found = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let words: Vec<&str> = if path.ends_with(".toml") {
            text.strip_prefix("citation = ").map(|value| value.trim().trim_matches('"')).into_iter().collect()
        } else if path.ends_with(".md") {
            text.split('[').skip(1).filter_map(|rest| rest.split(']').next()).collect()
        } else {
            text.split(open).skip(1).filter_map(|rest| rest.split(close).next()).collect()
        };
        let keys = words.into_iter().map(|word| word.trim_end_matches('\\')).filter(|word| is_key(word));
        found.extend(keys.map(|key| (line, key.to_owned())));
    }
    found
}

/// Numbered keys of a bibliography.
fn entries(text: &str) -> Vec<(usize, String)> {
    let lines = (1..).zip(text.lines());
    let key = |line: &str| Some(line.strip_prefix('@')?.split_once('{')?.1.trim_end_matches(',').to_owned());
    lines.filter_map(|(number, line)| Some((number, key(line)?))).collect()
}

/// Unsafe code outside its crate, or without a `SAFETY` reason on its line or close above.
fn unexplained_unsafe(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut faults = Vec::new();
    for (line, code) in code_lines(text) {
        let uses = [" {", " fn ", " impl "].iter().any(|what| code.contains(&format!("unsafe{what}")));
        if !uses {
            continue;
        }
        let above = &lines[line.saturating_sub(REASON_WITHIN + 1)..line];
        if !path.starts_with(UNSAFE_IN) {
            faults.push(format!("{path}:{line}: has unsafe code, which only {UNSAFE_IN} may"));
        } else if !above.iter().any(|line| line.contains("SAFETY") || line.contains("# Safety")) {
            faults.push(format!("{path}:{line}: has unsafe code without a `SAFETY` reason above it"));
        }
    }
    faults
}

/// Numbered targets of relative links in Markdown, without what follows `#`. Code is skipped.
fn links(text: &str) -> Vec<(usize, String)> {
    let (mut fenced, mut found) = (false, Vec::new());
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let prose: String = text.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for rest in prose.split("](").skip(1) {
            let target = rest.split([')', ' ', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains(':') {
                found.push((line, target.to_owned()));
            }
        }
    }
    found
}

#[test]
fn arrows_are_read_from_a_manifest() {
    let manifest = "[package]\nname = \"phi\"\n\n[dependencies]\ndml-kernels.workspace = true\n\
                    bregman = { path = \"../bregman\" }\n\n[dev-dependencies]\nphi = { path = \".\" }\n";
    let expected = ["crates/phi/Cargo.toml:6: `phi` depends on `bregman`, which does not lie below it"];
    assert_eq!(upward_arrows("crates/phi/Cargo.toml", manifest), expected);
    let unknown = upward_arrows("crates/other/Cargo.toml", manifest);
    assert_eq!(
        unknown,
        ["crates/other/Cargo.toml:1: `other` has no layer; give it one in xtask/src/tidy.rs"]
    );
}

#[test]
fn keys_are_found_where_they_are_cited() {
    let keys =
        |path: &str, text: &str| citations(path, text).into_iter().map(|(_, key)| key).collect::<Vec<_>>();
    // Composed, lest this file cite them.
    let (open, close) = ("\\[", "\\]");
    let code =
        format!("/// Smith {open}smith1999{close}, at x[i2000], {open}y{close}, {open}smith1999b{close}");
    assert_eq!(keys("a.rs", &code), ["smith1999", "smith1999b"]);
    let prose = format!("see [smith1999] and {open}jones2001{close}, not [a link](b.md)");
    assert_eq!(keys("a.md", &prose), ["smith1999", "jones2001"]);
    assert_eq!(keys("a.toml", "citation = \"smith1999\"\nkey = \"jones2001\""), ["smith1999"]);
    let listed = entries("@book{smith1999,\n  year = {1999},\n}\n@misc{jones2001,\n}\n");
    assert_eq!(listed, [(1, "smith1999".to_owned()), (4, "jones2001".to_owned())]);
}

#[test]
fn unsafe_code_needs_a_reason() {
    let call = format!("    let x = {} {{ y() }};", "unsafe");
    let explained = format!("// SAFETY: y has no conditions.\n{call}\n");
    let message = format!("crates/phi/src/a.rs:2: has unsafe code, which only {UNSAFE_IN} may");
    assert_eq!(unexplained_unsafe("crates/phi/src/a.rs", &explained), [message]);
    let path = "crates/dml-kernels/src/a.rs";
    assert!(unexplained_unsafe(path, &explained).is_empty());
    let message = format!("{path}:1: has unsafe code without a `SAFETY` reason above it");
    assert_eq!(unexplained_unsafe(path, &call), [message]);
}

#[test]
fn links_are_found_in_prose_only() {
    let text =
        "[a](b.md#part) `[c](d.md)` [e](https://f.org)\n```\n[g](h.md)\n```\n[i](#here) ![j](k/l.svg \"m\")";
    assert_eq!(links(text), [(1, "b.md".to_owned()), (5, "k/l.svg".to_owned())]);
}
