//! The importer from file to pairs, on tables made in every spelling of the header.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::{
    device::kernel::{Cube, Kernel, Op, Traffic},
    precision::Precision,
};

/// CANN 5 and 6.
const OLD: &str = "\
    Model Name,Model ID,Task ID,Stream ID,Infer ID,Op Name,OP Type,Task Type,Task Start Time,Task Duration(us),Task Wait Time(us),\
    Block Dim,Mix Block Dim,Input Shapes,Input Data Types,Input Formats,Output Shapes,Output Data Types,Output Formats,\
    aicore_time(us),total_cycles,mac_ratio";
/// Today's, with PipeUtilization, as on 310P and 910A.
const NEW: &str = "\
    Device_id,Model Name,Model ID,Task ID,Stream ID,Infer ID,Op Name,OP Type,OP State,Task Type,Task Start Time(us),Task Duration(us),\
    Task Wait Time(us),Block Num,Mix Block Num,HF32 Eligible,Input Shapes,Input Data Types,Input Formats,Output Shapes,\
    Output Data Types,Output Formats,Context ID,aicore_time(us),total_cycles,vec_time(us),vec_ratio,mac_time(us),mac_ratio,\
    scalar_time(us),scalar_ratio,mte1_time(us),mte1_ratio,mte2_time(us),mte2_ratio,mte3_time(us),mte3_ratio,icache_miss_rate,\
    memory_bound";
/// 310B, PipelineExecuteUtilization.
const EXECUTE: &str = "\
    Device_id,Model ID,Task ID,Stream ID,Op Name,OP Type,OP State,Task Type,Task Start Time(us),Task Duration(us),Task Wait Time(us),\
    Block Dim,HF32 Eligible,Input Shapes,Input Data Types,Input Formats,Output Shapes,Output Data Types,Output Formats,Context ID,\
    aicore_time(us),aic_total_cycles,aic_mac_exe_time(us),aic_mac_exe_ratio,aic_fixpipe_exe_time(us),memory_bound,cube_utilization(%)";
/// A2, cube and vector cores apart.
const SPLIT: &str = "\
    Device_id,Model ID,Task ID,Stream ID,Op Name,OP Type,OP State,Task Type,Task Start Time(us),Task Duration(us),Task Wait Time(us),\
    Block Dim,Mix Block Dim,HF32 Eligible,Input Shapes,Input Data Types,Input Formats,Output Shapes,Output Data Types,Output Formats,\
    Context ID,aicore_time(us),aic_total_cycles,aic_mac_time(us),aic_mac_ratio,aiv_time(us),aiv_total_cycles,aiv_vec_time(us),\
    aiv_vec_ratio,cube_utilization(%)";
/// torch_npu's kernel_details.csv.
const DETAILS: &str = "\
    Step Id,Device_id,Model ID,Task ID,Stream ID,Name,Type,OP State,Accelerator Core,Start Time(us),Duration(us),Wait Time(us),\
    Block Dim,Mix Block Dim,HF32 Eligible,Input Shapes,Input Data Types,Input Formats,Output Shapes,Output Data Types,Output Formats,\
    Context ID,aicore_time(us),aic_total_cycles,aiv_time(us),aiv_total_cycles";

/// A kernel of one node, a convolution of unknown size.
pub(super) fn kernel(name: &str) -> Kernel {
    Kernel {
        name: name.into(),
        op: Op::Conv,
        nodes: vec![name.into()],
        layer: None,
        precision: Precision::Fp16,
        cube: None,
        vector: crate::device::kernel::Vector::default(),
        access: crate::device::kernel::Access::Blocks,
        reads: vec![],
        writes: vec![],
    }
}

/// A kernel that writes `elements` of 16 bits.
fn sized(op: Op, nodes: &[&str], elements: u64) -> Kernel {
    let writes = vec![Traffic { bytes: elements * 2, bits: 16, distance: 0, chained: false }];
    Kernel { op, nodes: nodes.iter().map(|n| n.to_string()).collect(), writes, ..kernel(nodes.first().unwrap_or(&"x.form")) }
}

/// A small network: input, convolution, pool, a quantized block with a residual, classifier.
fn network() -> Vec<Kernel> {
    let cube = |taps, cin, cout| Some(Cube { images: 1, rows: 56 * 56, taps, cin, cout, groups: 1, sparse: false });
    let conv = |nodes: &[&str], taps, elements| Kernel { cube: cube(taps, 64, 64), ..sized(Op::Conv, nodes, elements) };
    vec![
        sized(Op::Transform, &[], 16 * 224 * 224),
        Kernel { cube: cube(49, 3, 64), ..sized(Op::Conv, &["/conv1/Conv", "/relu/Relu"], 64 * 112 * 112) },
        sized(Op::Pool, &["/maxpool/MaxPool"], 64 * 56 * 56),
        sized(Op::Quantize, &[], 64 * 56 * 56),
        conv(&["/layer1/conv1/Conv", "/layer1/relu/Relu"], 9, 64 * 56 * 56),
        conv(&["/layer1/conv2/Conv", "/layer1/Add", "/layer1/relu_1/Relu"], 1, 64 * 56 * 56),
        sized(Op::Pool, &["/avgpool/GlobalAveragePool"], 64),
        sized(Op::MatMul, &["/fc/Gemm"], 1000),
    ]
}

/// One operator as the chip ran it: name, type, inputs, output, duration.
type Step<'a> = (&'a str, &'a str, &'a str, &'a str, f64);

/// What the chip made of the network, with two operators that we do not predict: the first and the last.
const STEPS: [Step; 10] = [
    ("trans_Cast_0", "Cast", "1,3,224,224", "1,3,224,224", 7.0),
    ("trans_TransData_1", "TransData", "1,3,224,224", "1,1,224,224,16", 8.0),
    ("/conv1/Conv_/relu/Relu", "Conv2D", "1,1,224,224,16;49,4,16,16", "1,4,112,112,16", 31.0),
    ("/maxpool/MaxPool", "MaxPoolV3", "1,4,112,112,16", "1,4,56,56,16", 22.0),
    ("/layer1/conv1/Conv_quant_layer", "AscendQuant", "1,4,56,56,16", "1,2,56,56,32", 5.0),
    ("/layer1/conv1/Conv/layer1/conv1/Conv_dequant_layer/layer1/relu/Relu", "Conv2D", "1,2,56,56,32;18,4,16,32", "1,4,56,56,16", 19.0),
    ("/layer1/conv2/Conv_/layer1/Add_/layer1/relu_1/Relu", "Conv2D", "1,4,56,56,16;4,4,16,16", "1,4,56,56,16", 15.0),
    ("PartitionedCall_/avgpool/GlobalAveragePool_ReduceMeanD_4", "ReduceMeanD", "1,4,56,56,16", "1,4,1,1,16", 6.0),
    ("/fc/Gemm", "MatMulV2", "1,64;64,1000", "1,1000", 9.0),
    ("trans_TransData_14", "TransData", "1,63,1,1,16", "1,1000", 3.0),
];

/// A table under `header` with the steps run `times` over; without details as `task_time=l0` leaves it.
fn csv(header: &str, steps: &[Step], times: usize, detailed: bool) -> String {
    let mut text = format!("{header}\n");
    for i in 0..times * steps.len() {
        let (name, kind, inputs, output, us) = steps[i % steps.len()];
        let five = |shape: &str| if shape.matches(',').count() == 4 { "NC1HWC0" } else { "ND" };
        let start = 1_043_640_017_380.0 + 100.0 * i as f64;
        let slow = if i < steps.len() && times > 2 { 10.0 } else { 1.0 };
        let cell = |column: &str| match column {
            "Op Name" | "Name" => name.to_string(),
            "OP Type" | "Type" => kind.to_string(),
            "Task Type" | "Accelerator Core" => if kind == "Conv2D" { "AI_CORE" } else { "AI_VECTOR_CORE" }.to_string(),
            "Infer ID" | "Step Id" => (i / steps.len() + 1).to_string(),
            "Task Start Time" | "Task Start Time(us)" | "Start Time(us)" => format!("{start:.3}\t"),
            "Task Duration(us)" | "Duration(us)" => (us * slow).to_string(),
            "Block Dim" | "Block Num" => "8".into(),
            _ if !detailed => "N/A".into(),
            "Input Shapes" => format!("\"\"\"{inputs}\"\"\""),
            "Output Shapes" => format!("\"{output}\""),
            "Input Formats" => inputs.split(';').map(five).collect::<Vec<_>>().join(";"),
            "Output Formats" => five(output).into(),
            "aicore_time(us)" => (us - 2.0).max(0.0).to_string(),
            "total_cycles" | "aic_total_cycles" => (us * 1e3).to_string(),
            _ => "0".into(),
        };
        text += &(header.split(',').map(cell).collect::<Vec<_>>().join(",") + "\n");
    }
    text
}

fn rows(text: &str) -> Vec<Row> {
    parse(Path::new("op_summary_0_1.csv"), text.as_bytes()).unwrap().rows
}

/// Pairs as "kernels=rows", with `~` for those by place; then rows and kernels without one.
fn told(found: &Matching) -> String {
    let list = |l: &[usize]| l.iter().map(usize::to_string).collect::<Vec<_>>().join("+");
    let sign = |p: &Pair| if p.evidence == Evidence::Place { "~" } else { "=" };
    let pairs: Vec<String> = found.pairs.iter().map(|p| format!("{}{}{}", list(&p.kernels), sign(p), list(&p.rows))).collect();
    format!("{} rows {} kernels {}", pairs.join(" "), list(&found.unmatched_rows), list(&found.unmatched_kernels))
}

fn matched(kernels: &[Kernel], steps: &[Step]) -> String {
    told(&match_rows(kernels, &rows(&csv(NEW, steps, 1, true))))
}

const ALL: &str = "0~1 1=2 2=3 3=4 4=5 5=6 6=7 7=8 rows 0+9 kernels ";

#[test]
fn every_header_gives_the_same_operators() {
    for header in [OLD, NEW, EXECUTE, SPLIT, DETAILS] {
        let rows = rows(&csv(header, &STEPS, 1, true));
        let conv = &rows[2];
        assert_eq!((conv.kind.as_str(), conv.duration_us, conv.core_us, conv.block), ("Conv2D", 31.0, Some(29.0), Some(8)), "{header}");
        assert_eq!(conv.cycles, Some(31e3), "{header}");
        assert_eq!(conv.input_shapes, [vec![1, 1, 224, 224, 16], vec![49, 4, 16, 16]], "{header}");
        assert_eq!(conv.output_formats, ["NC1HWC0"], "{header}");
        assert_eq!(told(&match_rows(&network(), &rows)), ALL, "{header}");
    }
}

#[test]
fn without_shapes_and_counters_names_and_kinds_still_match() {
    let rows = rows(&csv(NEW, &STEPS, 1, false));
    assert_eq!((rows[2].core_us, rows[2].input_shapes.len()), (None, 0));
    assert_eq!(told(&match_rows(&network(), &rows)), ALL);
}

#[test]
fn several_inferences_become_one_without_the_first() {
    for header in [OLD, EXECUTE, DETAILS] {
        let found = one_inference(&rows(&csv(header, &STEPS, 4, true)));
        assert_eq!((found.counted, found.warm_up_left_out, found.rows.len()), (3, true, STEPS.len()), "{header}");
        let matching = match_rows(&network(), &found.rows);
        assert_eq!(told(&matching), ALL, "{header}");
        assert_eq!(matching.pairs.iter().map(|p| p.us).collect::<Vec<_>>(), [8.0, 31.0, 22.0, 5.0, 19.0, 15.0, 6.0, 9.0]);
    }
}

#[test]
fn the_public_example_is_read() {
    let text = "Model ID,Task ID,Stream ID,Op Name,OP Type,Task Type,Task Start Time,Task Duration(us),Task Wait Time(us),Block Dim,\
                Input Shapes,Input Data Types,Input Formats,Output Shapes,Output Data Types,Output Formats,aicore_time(us),total_cycles,\
                vec_time(us),vec_ratio,mac_time(us),mac_ratio,scalar_time(us),scalar_ratio,mte1_time(us),mte1_ratio,mte2_time(us),\
                mte2_ratio,mte3_time(us),mte3_ratio,icache_miss_rate,memory_bound\n\
                4294967295,1,47,add_custom,add_custom,AI_CORE,1043640017380.831,82.11,0,8,N/A,N/A,N/A,N/A,N/A,N/A,9.87,78923,0.2261,\
                0.0229,0,0,8.8732,0.899,0,0,3.8364,0.3887,2.4525,0.2485,0.0002,16.9677\n";
    let row = rows(text).remove(0);
    let expected = Row {
        line: 2,
        name: "add_custom".into(),
        kind: "add_custom".into(),
        task_type: "AI_CORE".into(),
        start_us: Some(1043640017380.831),
        duration_us: 82.11,
        core_us: Some(9.87),
        cycles: Some(78923.0),
        block: Some(8),
        ..Row::default()
    };
    assert_eq!(row, expected);
}

#[test]
fn a_missing_row_leaves_its_kernel_alone() {
    let mut steps = STEPS.to_vec();
    steps.remove(3);
    assert_eq!(matched(&network(), &steps), "0~1 1=2 3=3 4=4 5=5 6=6 7=7 rows 0+8 kernels 2");
}

#[test]
fn renamed_rows_are_found_by_kind_size_and_place() {
    let names: Vec<String> = (0..STEPS.len()).map(|i| format!("op{i}")).collect();
    let steps: Vec<Step> = STEPS.iter().zip(&names).map(|(s, name)| (name.as_str(), s.1, s.2, s.3, s.4)).collect();
    assert_eq!(matched(&network(), &steps), "0~1 1~2 2~3 3~4 4~5 5~6 6~7 7~8 rows 0+9 kernels ");
}

#[test]
fn of_two_kernels_alike_neither_is_guessed() {
    let kernels = ["a_conv", "b_conv", "c_conv", "d_conv"].map(|n| sized(Op::Conv, &[n], 64));
    let step = |name| (name, "Conv2D", "64", "64", 1.0);
    assert_eq!(matched(&kernels, &["a_conv", "lost", "d_conv"].map(step)), "0=0 3=2 rows 1 kernels 1+2");
    assert_eq!(matched(&kernels, &["a_conv", "lost", "strange", "d_conv"].map(step)), "0=0 1~1 2~2 3=3 rows  kernels ");
    let told_apart = [("a_conv", "Conv2D", "64", "64", 1.0), ("lost", "Conv2D", "9", "9", 1.0)];
    assert_eq!(matched(&kernels, &told_apart), "0=0 rows 1 kernels 1+2+3");
}

#[test]
fn branches_in_another_order_match_by_name_and_spoil_no_neighbour() {
    let kernels = ["stem", "left_conv", "left_add", "right_conv", "join"].map(|n| sized(Op::Conv, &[n], 64));
    let steps = ["stem", "right_conv", "left_conv", "left_add", "odd", "join"].map(|n| (n, "Conv2D", "64", "64", 1.0));
    assert_eq!(matched(&kernels, &steps), "0=0 1=2 2=3 3=1 4=5 rows 4 kernels ");
}

#[test]
fn a_row_of_several_kernels_and_a_kernel_of_several_rows_are_groups() {
    let mut pair = [kernel("Conv_0"), kernel("Add_2"), kernel("Conv_3")];
    pair[0].nodes.push("Relu_1".into());
    let step = |name, us| (name, "Conv2D", "64", "64", us);
    assert_eq!(matched(&pair, &[step("Conv_0Relu_1Add_2", 5.0), step("Conv_3", 1.0)]), "0+1=0 2=1 rows  kernels ");
    let split =
        match_rows(&pair, &rows(&csv(NEW, &[step("Conv_0", 5.0), step("Relu_1", 2.5), step("Conv_3_dequant_layer", 1.0)], 1, true)));
    assert_eq!(told(&split), "0=0+1 2=2 rows  kernels 1");
    assert_eq!(split.pairs[0].us, 7.5);
}

#[test]
fn a_quantization_that_we_expect_to_be_fused_counts_for_the_layer_it_serves() {
    let kernels = [kernel("Conv_0"), kernel("Conv_1")];
    let steps =
        [("Conv_0", "Conv2D", "8", "8", 1.0), ("Conv_1_0_quant_layer", "AscendQuant", "8", "8", 2.0), ("Conv_1", "Conv2D", "8", "8", 4.0)];
    assert_eq!(matched(&kernels, &steps), "0=0 1=1+2 rows  kernels ");
    assert_eq!(matched(&kernels, &steps[..2]), "0=0 rows 1 kernels 1");
}

#[test]
fn nothing_matches_nothing() {
    assert_eq!(told(&match_rows(&[], &[])), " rows  kernels ");
    assert_eq!(told(&match_rows(&network()[..2], &[])), " rows  kernels 0+1");
    assert_eq!(told(&match_rows(&[], &[Row::default()])), " rows 0 kernels ");
}

/// Node names of a few kernels in the manner of one exporter, as many nodes a kernel as `sizes` says.
fn named(style: usize, sizes: &[usize]) -> Vec<Vec<String>> {
    let mut n = 0;
    let mut name = || {
        n += 1;
        let kind = ["Conv", "Relu", "Add", "Mul"][n % 4];
        match style {
            0 => format!("{kind}_{n}"),
            1 => format!("/layer{}/{}.{n}/{kind}", n / 7, kind.to_lowercase()),
            2 => format!("net/block{n}/{kind}"),
            _ => format!("res{n}_branch{}", ["a", "b", "c", "d"][n % 4]),
        }
    };
    sizes.iter().map(|&size| (0..size).map(|_| name()).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn names_joined_in_any_manner_find_every_kernel(
        style in 0_usize..4, sign in prop_oneof![Just(""), Just("_"), Just(";")], prefix in prop_oneof![Just(""), Just("PartitionedCall_")],
        sizes in prop::collection::vec(1_usize..5, 1..40), seed in any::<u64>(),
    ) {
        let nodes = named(style, &sizes);
        let kernels: Vec<Kernel> = nodes.iter().map(|list| Kernel { nodes: list.clone(), ..kernel(&list[0]) }).collect();
        let mut order: Vec<usize> = (0..kernels.len()).collect();
        order.sort_by_key(|&k| (k as u64 + 1).wrapping_mul(seed | 1));
        let name = |k: usize| format!("{prefix}{}", nodes[k].join(sign));
        let row = |&k: &usize| Row { name: name(k), kind: "Conv2D".into(), duration_us: 1.0, ..Row::default() };
        let found = match_rows(&kernels, &order.iter().map(row).collect::<Vec<_>>());
        prop_assert_eq!(found.pairs.len(), kernels.len());
        for pair in &found.pairs {
            prop_assert_eq!(&pair.kernels, &[order[pair.rows[0]]]);
        }
    }

    #[test]
    fn no_row_and_no_kernel_is_ever_in_two_pairs(
        style in 0_usize..4, sizes in prop::collection::vec(1_usize..4, 1..12),
        picks in prop::collection::vec((0_usize..60, 0_usize..3, 0_usize..6, 0_u64..4), 0..30),
    ) {
        let nodes = named(style, &sizes);
        let ops = [Op::Conv, Op::Quantize, Op::Transform, Op::Elementwise, Op::Pool, Op::Other];
        let of = |(i, list): (usize, &Vec<String>)| Kernel { nodes: list.clone(), ..sized(ops[i * 7 % 6], &[&list[0]], 1 + i as u64 % 3) };
        let kernels: Vec<Kernel> = nodes.iter().enumerate().map(of).collect();
        let flat: Vec<&String> = nodes.iter().flatten().collect();
        let kinds = ["Conv2D", "AscendQuant", "TransData", "Add", "MaxPoolV3", ""];
        let row = |&(at, suffix, kind, size): &(usize, usize, usize, u64)| Row {
            name: format!("{}{}", flat.get(at).map_or("op", |n| n.as_str()), ["", "_quant_layer", "_1"][suffix]),
            kind: kinds[kind].into(),
            output_shapes: vec![vec![size]],
            duration_us: 1.0,
            ..Row::default()
        };
        let rows: Vec<Row> = picks.iter().map(row).collect();
        let found = match_rows(&kernels, &rows);
        let mut row_list: Vec<usize> = found.pairs.iter().flat_map(|p| &p.rows).chain(&found.unmatched_rows).copied().collect();
        let mut kernel_list: Vec<usize> = found.pairs.iter().flat_map(|p| &p.kernels).chain(&found.unmatched_kernels).copied().collect();
        row_list.sort_unstable();
        kernel_list.sort_unstable();
        prop_assert_eq!(row_list, (0..rows.len()).collect::<Vec<_>>());
        prop_assert_eq!(kernel_list, (0..kernels.len()).collect::<Vec<_>>());
        prop_assert!(found.pairs.iter().all(|p| !p.rows.is_empty() && p.us == p.rows.len() as f64));
    }
}
