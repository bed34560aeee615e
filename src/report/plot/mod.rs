//! The pictures of a report, as SVG text: no fonts and no bitmaps, the same bytes for the same summary.

mod canvas;
mod contest;
mod drops;
mod fit;
mod front;
mod label;
mod layers;
mod roofline;
mod sensitivity;
mod window;

pub use contest::contest_svg;
pub use drops::drops_svg;
pub use fit::{families_svg, predicted_svg};
pub use front::front_svg;
pub use layers::layers_svg;
pub use roofline::{Roofline, RooflinePoint, roofline_svg};
pub use sensitivity::sensitivity_svg;
