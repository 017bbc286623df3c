//! How much f32 loses where every unit is saturated: a table.
use bregman::all_pairs;
use candle_core::{DType, Device};
use phi::testing::points;

#[path = "support/oracle.rs"]
mod oracle;
#[path = "support/saturated.rs"]
mod saturated;
use oracle::*;

#[test]
fn table() -> TestResult {
    let (n, d) = (64, 16);
    for far in [5.0, 10.0, 20.0, 40.0] {
        println!("far {far}");
        for c in [0.0, 1e-3, 0.1] {
            for (name, spec) in saturated::with_units(c) {
                print!("{name:20} c = {c:<6}");
                for steep in [0.3, 1.5] {
                    for side in [1.0, -1.0] {
                        for shift in [-100.0, 0.0, 100.0] {
                            let wide = spec.build(d, 1, DType::F64, &Device::Cpu)?;
                            saturated::saturate(&*wide, side * far, shift, steep, 5)?;
                            let (narrow, wide) = narrow_and_wide(
                                phi::testing::Named { name, spec: spec.clone(), smooth: true, phi: wide },
                                d,
                            )?;
                            let x = (points(&*narrow, 3, n, d)? + shift)?.to_dtype(DType::F32)?;
                            let rows = x.to_dtype(DType::F64)?.to_vec2::<f64>()?;
                            let exact = saturated::divergence(&spec, &*wide)?;
                            let fast = all_pairs(&*narrow, &x, &x)?.to_vec2::<f32>()?;
                            let (mut worst, mut all) = (0f64, Vec::new());
                            for i in 0..n {
                                for j in 0..n {
                                    if i != j {
                                        let d = exact(&rows[i], &rows[j]);
                                        all.push(d);
                                        worst = worst.max((f64::from(fast[i][j]) - d).abs());
                                    }
                                }
                            }
                            all.sort_by(f64::total_cmp);
                            let median = all[all.len() / 2];
                            print!(" {:8.1e}", worst / median);
                            if shift == 0.0 {
                                print!("({:.0e},{:.0e})", median, all[all.len() - 1]);
                            }
                        }
                    }
                }
                println!();
            }
        }
    }
    Ok(())
}
