//! The whole model in f64: every parameter of encoder, generator and temperature receives a gradient through one
//! backward pass, and it agrees with central finite differences.

use std::sync::Arc;

use bregman::Side;
use candle_core::{DType, Device, Tensor};
use dml::{Encoder, Method, SmallConv, SmallConvConfig};
use dml_kernels::l2_normalize;
use dml_loss::{Batch, BregmanDistance, Objective, SupCon, Temperature};
use phi::testing::{numeric_parameter_gradient, push_far};

const METHODS: [Method; 7] = [
    Method::Euclidean,
    Method::DeepMahalanobis,
    Method::MaxAffine,
    Method::DeepDivergence,
    Method::Separable,
    Method::Icnn,
    Method::EmpiricalBregman,
];

#[test]
fn every_parameter_of_every_method_agrees_with_finite_differences() -> Result<(), Box<dyn std::error::Error>>
{
    assert!(std::env::var_os("CANDLE_GRAD_DO_NOT_DETACH").is_none());
    let (dtype, device) = (DType::F64, Device::Cpu);
    let config = SmallConvConfig { channels: [2, 3], hidden: 5, dim: 4 };
    for method in METHODS {
        let encoder = SmallConv::new([1, 9, 7], &config, 3, dtype, &device)?;
        let generator = method.generator(4, (-1.0, 1.0), 0.5, 5, dtype, &device)?;
        push_far(generator.as_ref(), 7)?;
        let distance = Arc::new(BregmanDistance::new(generator, Side::First));
        let temperature = Temperature::learned(0.5, dtype, &device)?;
        let objective = Objective::new(Arc::new(SupCon { distance, temperature }));
        // Images without symmetry, and no two alike.
        let pixels: Vec<f64> =
            (0..6 * 63).map(|i| f64::from((i * i * 31 + i * 7) % 101) / 50.0 - 1.0).collect();
        let images = Tensor::from_vec(pixels, (6, 1, 9, 7), &device)?;
        let loss = || -> Result<Tensor, Box<dyn std::error::Error>> {
            let embeddings = l2_normalize(&encoder.forward(&images)?)?;
            Ok(objective.forward(&Batch::new(&embeddings, &[0, 0, 1, 1, 2, 2])?)?)
        };
        let gradients = loss()?.backward()?;
        let encoder_parameters = encoder.parameters().into_iter();
        let parameters =
            encoder_parameters.chain(objective.parameters().into_iter().map(|p| (p.name, p.var)));
        for (name, var) in parameters {
            let got =
                gradients.get(&var).ok_or_else(|| format!("{method:?}: `{name}` receives no gradient"))?;
            let want =
                numeric_parameter_gradient(&var, 1e-5, || -> Result<f64, Box<dyn std::error::Error>> {
                    Ok(loss()?.to_scalar::<f64>()?)
                })?;
            let error = phi::testing::relative_error(got, &want, 1e-4)?;
            assert!(error <= 1e-5, "{method:?}: gradient of `{name}` is off by {error:e}");
        }
    }
    Ok(())
}
