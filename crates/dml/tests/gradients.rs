//! The whole model in f64: every parameter of encoder, generator and temperature receives a gradient through one
//! backward pass, and it agrees with central finite differences.

use std::sync::Arc;

use bregman::Side;
use candle_core::{DType, Device, Tensor, Var};
use dml::{Encoder, Inputs, Method, Mode, SmallConv, SmallConvConfig};
use dml_kernels::l2_normalize;
use dml_loss::{Batch, BregmanDistance, Objective, SupCon, Temperature};
use phi::testing::push_far;

const METHODS: [Method; 7] = [
    Method::Euclidean,
    Method::DeepMahalanobis,
    Method::MaxAffine,
    Method::DeepDivergence,
    Method::Separable,
    Method::Icnn,
    Method::EmpiricalBregman,
];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The derivative with respect to one entry of a variable.
fn central_difference(var: &Var, at: usize, loss: &dyn Fn() -> Outcome<Tensor>) -> Outcome<f64> {
    const STEP: f64 = 1e-5;
    let start = var.as_tensor().copy()?;
    let value = |step: f64| -> Outcome<f64> {
        let mut moved = start.flatten_all()?.to_vec1::<f64>()?;
        moved[at] += step;
        var.set(&Tensor::from_vec(moved, start.shape(), &Device::Cpu)?)?;
        Ok(loss()?.to_scalar::<f64>()?)
    };
    let slope = (value(STEP)? - value(-STEP)?) / (2.0 * STEP);
    var.set(&start)?;
    Ok(slope)
}

#[test]
fn every_parameter_of_every_method_agrees_with_finite_differences() -> Outcome<()> {
    assert!(std::env::var_os("CANDLE_GRAD_DO_NOT_DETACH").is_none());
    let (dtype, device) = (DType::F64, Device::Cpu);
    let config = SmallConvConfig { channels: [2, 3], hidden: 5, dim: 4 };
    for method in METHODS {
        let encoder = SmallConv::new([1, 9, 7], &config, 3, dtype, &device)?;
        let inputs = Inputs { dim: 4, range: (-1.0, 1.0), scale: 0.5, sample: None };
        let generator = method.generator(inputs, 5, dtype, &device)?;
        push_far(generator.as_ref(), 7)?;
        let distance = Arc::new(BregmanDistance::new(generator, Side::First));
        let temperature = Temperature::learned(0.5, dtype, &device)?;
        let objective = Objective::new(Arc::new(SupCon { distance, temperature }));
        // Images without symmetry, and no two alike.
        let pixels: Vec<f64> =
            (0..6 * 63).map(|i| f64::from((i * i * 31 + i * 7) % 101) / 50.0 - 1.0).collect();
        let images = Tensor::from_vec(pixels, (6, 1, 9, 7), &device)?;
        let loss = || -> Outcome<Tensor> {
            let embeddings = l2_normalize(&encoder.forward(&images, Mode::Train)?)?;
            Ok(objective.forward(&Batch::new(&embeddings, &[0, 0, 1, 1, 2, 2])?)?)
        };
        let gradients = loss()?.backward()?;
        let encoder_parameters = encoder.parameters().into_iter();
        let parameters =
            encoder_parameters.chain(objective.parameters().into_iter().map(|p| (p.name, p.var)));
        for (name, var) in parameters {
            let got =
                gradients.get(&var).ok_or_else(|| format!("{method:?}: `{name}` receives no gradient"))?;
            let got = got.flatten_all()?.to_vec1::<f64>()?;
            let largest = got.iter().fold(1e-4, |m: f64, g| m.max(g.abs()));
            // All entries of small parameters, spread ones of large ones.
            for at in (0..got.len()).step_by(got.len().div_ceil(11)) {
                let want = central_difference(&var, at, &loss)?;
                let error = (got[at] - want).abs() / largest;
                assert!(error <= 1e-5, "{method:?}: gradient of `{name}` at {at} is off by {error:e}");
            }
        }
    }
    Ok(())
}
