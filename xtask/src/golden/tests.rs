//! The runner on the workspace's own reference cases, and on cases made wrong on purpose.

use std::{fs, path::PathBuf};

use serde_json::json;

use super::*;

type Any = Box<dyn std::error::Error>;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn lines(dir: &Path) -> anyhow::Result<(Summary, Vec<String>)> {
    let mut out = Vec::new();
    let summary = run(dir, &mut out)?;
    Ok((summary, String::from_utf8(out)?.lines().map(str::to_owned).collect()))
}

/// The reference cases that the crates keep: none fails, and divergences and metrics are complete.
#[test]
fn the_workspace_agrees_with_its_own_reference_cases() -> Result<(), Any> {
    let mut folders = 0;
    let mut complete = (0, 0);
    for entry in fs::read_dir(workspace().join("crates"))? {
        let dir = entry?.path().join("tests/golden");
        if !dir.join("manifest.json").is_file() {
            continue;
        }
        folders += 1;
        let (summary, lines) = lines(&dir)?;
        println!("{}: {}", dir.display(), lines.last().map_or("", |l| l));
        let bad: Vec<&String> = lines.iter().filter(|line| line.starts_with("FAIL")).collect();
        assert_eq!((summary.failed, &bad[..]), (0, &[][..]));
        complete.0 += lines.iter().filter(|line| line.starts_with("ok bregman/")).count();
        complete.1 += lines.iter().filter(|line| line.starts_with("ok accuracy/")).count();
        for line in &lines {
            assert!(!line.starts_with("unsupported bregman/"), "{line}");
            assert!(!line.starts_with("unsupported accuracy/"), "{line}");
        }
    }
    assert!(folders > 0);
    assert_eq!(complete, (7, 14), "bregman and accuracy cases that are ok");
    Ok(())
}

/// A folder with one case of the crates, changed by `change`; the line it gives.
fn changed(id: &str, change: impl Fn(&mut Value)) -> Result<String, Any> {
    let owner = match id.split('/').next() {
        Some("accuracy") => "dml-retrieval",
        Some("bregman") => "bregman",
        _ => "dml-loss",
    };
    let source = workspace().join("crates").join(owner).join("tests/golden");
    let mut manifest: Value = serde_json::from_slice(&fs::read(source.join("manifest.json"))?)?;
    let cases = manifest["cases"].as_array().ok_or("no cases")?;
    let mut case = cases.iter().find(|case| case["id"] == id).ok_or("no such case")?.clone();
    change(&mut case);
    manifest["cases"] = json!([case]);
    let dir = Folder::new()?;
    for file in fs::read_dir(source)? {
        let file = file?.path();
        let name = file.file_name().ok_or("no name")?;
        if file.extension().is_some_and(|e| e == "safetensors") {
            fs::copy(&file, dir.0.join(name))?;
        }
    }
    fs::write(dir.0.join("manifest.json"), manifest.to_string())?;
    Ok(lines(&dir.0)?.1.swap_remove(0))
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("golden-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_tampered_value_fails() -> Result<(), Any> {
    let id = "accuracy/self";
    assert_eq!(changed(id, |_| ())?, "ok accuracy/self");
    let line = changed(id, |case| case["expected"]["values"]["r_precision"] = json!(0.48))?;
    assert!(line.starts_with("FAIL accuracy/self r_precision (f64) 0.48 0.4737"), "{line}");
    let line = changed(id, |case| case["expected"]["values"]["AMI"] = json!(0.67))?;
    assert!(line.starts_with("FAIL accuracy/self AMI (f64) 0.67 0.671855"), "{line}");
    let line = changed(id, |case| case["expected"]["recall_at_k_all_queries"]["4"] = json!(0.9))?;
    assert_eq!(line, "FAIL accuracy/self recall_at_k_all_queries of 4 (f64) 0.9 0.94");
    let line = changed(id, |case| case["expected"]["queries_counted"] = json!(299))?;
    assert_eq!(line, "FAIL accuracy/self queries_counted 299 300");
    let line = changed("accuracy/self-per-class", |case| case["expected"]["classes"][3] = json!(40))?;
    assert!(line.starts_with("FAIL accuracy/self-per-class classes of"), "{line}");
    Ok(())
}

/// One changed entry of any kind of case turns it into a failure: what is expected is really compared.
#[test]
fn every_expected_entry_is_compared() -> Result<(), Any> {
    let ids = [
        "bregman/icnn",
        "bregman/mahalanobis",
        "distance/LpDistance/l2-ref",
        "reducer/MeanReducer/default-triplet",
        "loss/TripletMarginLoss/default",
        "miner/BatchHardMiner/default",
        "miner/PairMarginMiner/default",
    ];
    for id in ids {
        let mut expected = Value::Null;
        let seen = std::cell::RefCell::new(&mut expected);
        let line = changed(id, |case| **seen.borrow_mut() = case["expected"].clone())?;
        assert_eq!(line, format!("ok {id}"));
        for key in expected.as_object().ok_or("no object")?.keys().filter(|key| *key != "tensors") {
            let line = changed(id, |case| {
                let value = case["expected"][key].as_f64().unwrap_or(0.0);
                case["expected"][key] = json!(1.001 * value + 0.001);
            })?;
            assert!(line.starts_with(&format!("FAIL {id} ")), "{key}: {line}");
        }
        // Another tensor of the same case in its place, be it of another shape, type or value.
        let roles = expected["tensors"].as_object().ok_or("no tensors")?;
        for role in roles.keys() {
            let other = if role.ends_with("_f64") { "inputs/missing" } else { &format!("{role}_f64") };
            let line = changed(id, |case| case["expected"]["tensors"][role] = json!(other))?;
            assert!(line.starts_with(&format!("unsupported {id} tensor \"")), "{role}: {line}");
        }
    }
    let line = changed("miner/BatchHardMiner/default", |case| {
        case["expected"]["tensors"]["triplets"] = json!("miner/BatchHardMiner/ref/triplets");
    })?;
    assert!(line.starts_with("FAIL miner/BatchHardMiner/default tuples (F64) "), "{line}");
    let line = changed("bregman/icnn", |case| {
        case["expected"]["tensors"]["grad.W1_f64"] = json!("bregman/icnn/D_vjp.W1_f64");
    })?;
    assert!(line.starts_with("FAIL bregman/icnn grad.W1 (f64) at 0: "), "{line}");
    let line = changed("bregman/itakura_saito", |case| case["params"]["phi"] = json!("-sum_i sqrt x_i"))?;
    assert_eq!(
        line,
        "unsupported bregman/itakura_saito parameter `phi` is \"-sum_i sqrt x_i\", expected \"-sum_i log x_i, \
         x > 0\""
    );
    let line = changed("loss/TripletMarginLoss/default", |case| case["params"]["smoothing"] = json!(0.1))?;
    assert!(
        line.starts_with(
            "unsupported loss/TripletMarginLoss/default TripletMarginLoss: unknown field `smoothing`"
        ),
        "{line}"
    );
    let line = changed("loss/TripletMarginLoss/default", |case| case["peer_class"] = json!("WarpLoss"))?;
    assert_eq!(line, "unsupported loss/TripletMarginLoss/default WarpLoss is not in dml-loss");
    Ok(())
}

#[test]
fn what_is_not_known_is_unsupported() -> Result<(), Any> {
    let id = "accuracy/self";
    let expect = |change: &dyn Fn(&mut Value), why: &str| -> Result<(), Any> {
        assert_eq!(changed(id, change)?, format!("unsupported {id} {why}"));
        Ok(())
    };
    expect(&|case| case["params"]["weights"] = json!("idf"), "unknown params entry `weights`")?;
    expect(&|case| case["params"]["k"] = json!(-1), "parameter `k` is -1")?;
    expect(&|case| case["params"]["neighbours"] = json!("l1"), "parameter `neighbours` is Some(\"l1\")")?;
    expect(&|case| case["kind"] = json!("speed"), "kind \"speed\"")?;
    expect(&|case| case["tensors"]["mask"] = json!("inputs/query"), "unknown tensors entry `mask`")?;
    expect(&|case| case["expected"]["hubness"] = json!(0.1), "unknown expected.hubness")?;
    expect(
        &|case| case["expected"]["tensors"] = json!({"ranks": "inputs/query"}),
        "unknown expected.tensors.ranks",
    )?;
    expect(&|case| case["steps"] = json!([]), "unknown entry `steps`")?;
    expect(
        &|case| case["tensors"]["query"] = json!("inputs/nowhere"),
        "tensor \"inputs/nowhere\" for `query` is not in the file",
    )?;
    expect(
        &|case| case["tensors"]["query"] = json!("inputs/query_labels"),
        "input `query` holds I64, expected F32",
    )?;
    expect(
        &|case| case["tensors"]["query_labels"] = json!("inputs/query"),
        "`query_labels` holds F32, expected I64",
    )?;
    expect(
        &|case| case["file"] = json!("../accuracy.safetensors"),
        "`file` is \"../accuracy.safetensors\", expected the name of a file in the folder",
    )?;
    expect(
        &|case| case["tolerance"]["f64"] = json!({}),
        "no tolerance `value_rtol` or `value_atol` for f64",
    )?;
    let line = changed(id, |case| case["file"] = json!("gone.safetensors"))?;
    assert!(line.starts_with("unsupported accuracy/self gone.safetensors: "), "{line}");
    assert_eq!(changed(id, |case| *case = json!(3))?, "unsupported case 0 the case is no JSON object");
    Ok(())
}

#[test]
fn a_broken_folder_is_an_error() -> Result<(), Any> {
    let dir = Folder::new()?;
    let message = |dir: &Folder| run(&dir.0, &mut Vec::new()).unwrap_err().to_string();
    assert!(message(&dir).ends_with("manifest.json: cannot be read"));
    for (text, end) in [
        ("{", "manifest.json: is not JSON"),
        ("{\"format\": 2}", "manifest.json: `format` is 2, expected 1"),
        ("{\"format\": 1, \"cases\": []}", "manifest.json: `cases` is not a list with at least one case"),
    ] {
        fs::write(dir.0.join("manifest.json"), text)?;
        assert!(message(&dir).ends_with(end), "{}", message(&dir));
    }
    // A file that is no safetensors file, and one cut off.
    let case = json!({"id": "a", "kind": "bregman", "file": "a.safetensors"});
    fs::write(dir.0.join("manifest.json"), json!({"format": 1, "cases": [case]}).to_string())?;
    for bytes in [&b""[..], b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x10\0\0\0\0\0\0\0{\"a\":"] {
        fs::write(dir.0.join("a.safetensors"), bytes)?;
        let (summary, lines) = lines(&dir.0)?;
        assert_eq!(summary, Summary { ok: 0, failed: 0, unsupported: 1 });
        assert!(lines[0].starts_with("unsupported a a.safetensors: "), "{}", lines[0]);
        assert_eq!(lines[1], "0 ok, 0 failed, 1 unsupported");
    }
    Ok(())
}
