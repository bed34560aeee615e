//! An operator of ours for training graphs: rows added up where indices say, the gradient of tables that are read by index.

use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext},
    value::TensorElementType,
};

use super::spread::in_rows;

/// `ScatterAdd(dy, indices)`: dy is \[outer, n, inner\]; the result \[outer, length, inner\], where length is an attribute, has the sum of
/// what an index of its middle axis stands for. There is an index for each of the n, or one for each element of dy; negative ones count
/// from the end.
pub(super) struct ScatterAdd;

pub(super) struct Target {
    length: usize,
}

impl Operator for ScatterAdd {
    type Kernel<'attr> = Target;

    fn name(&self) -> &str {
        "ScatterAdd"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32), OperatorInput::required(TensorElementType::Int64)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Target> {
        let length = context.get::<i64>("length").and_then(|length| usize::try_from(length).ok());
        Ok(Target { length: length.ok_or_else(|| ort::Error::new("ScatterAdd has no length".to_string()))? })
    }

    fn infer_shape(&self, _: &mut ShapeInferenceContext) -> ort::Result<()> {
        Ok(())
    }
}

impl Target {
    /// Indices counted from the front.
    fn places(&self, indices: &[i64]) -> ort::Result<Vec<usize>> {
        let length = self.length as i64;
        let place = |&i: &i64| usize::try_from(if i < 0 { i + length } else { i }).ok().filter(|&i| i < self.length);
        let all: Option<Vec<usize>> = indices.iter().map(place).collect();
        all.ok_or_else(|| ort::Error::new(format!("an index is not below {length}")))
    }

    /// Rows of dy for each place, one behind the other, and where those of each place begin: the sums can be made place by place, in the
    /// same order whatever the number of threads.
    fn sorted(&self, places: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let mut begins = vec![0; self.length + 1];
        places.iter().for_each(|&p| begins[p + 1] += 1);
        (0..self.length).for_each(|p| begins[p + 1] += begins[p]);
        let mut next = begins.clone();
        let mut rows = vec![0; places.len()];
        for (row, &p) in places.iter().enumerate() {
            rows[next[p]] = row;
            next[p] += 1;
        }
        (rows, begins)
    }
}

impl Kernel for Target {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("ScatterAdd lacks a value".to_string());
        let (dy, indices) = (context.input(0)?.ok_or_else(missing)?, context.input(1)?.ok_or_else(missing)?);
        let &[outer, n, inner] = &dy.shape().to_vec()[..] else { return Err(missing()) };
        let mut dx = context.output(0, vec![outer, self.length as i64, inner])?.ok_or_else(missing)?;
        let (dy, dx) = (dy.try_extract_tensor::<f32>()?.1, dx.try_extract_tensor_mut::<f32>()?.1);
        let places = self.places(indices.try_extract_tensor::<i64>()?.1)?;
        let (n, inner) = (n as usize, inner as usize);
        if indices.shape().len() == 1 {
            let (rows, begins) = self.sorted(&places);
            in_rows(dx, inner, |row, dx| {
                let (outer, place) = (row / self.length, row % self.length);
                dx.fill(0.0);
                for &from in &rows[begins[place]..begins[place + 1]] {
                    let from = (outer * n + from) * inner;
                    dx.iter_mut().zip(&dy[from..from + inner]).for_each(|(dx, dy)| *dx += dy);
                }
            });
        } else {
            in_rows(dx, self.length * inner, |outer, dx| {
                dx.fill(0.0);
                let from = outer * n * inner..(outer + 1) * n * inner;
                for (i, (&place, dy)) in places[from.clone()].iter().zip(&dy[from]).enumerate() {
                    dx[place * inner + i % inner] += dy;
                }
            });
        }
        Ok(())
    }
}
