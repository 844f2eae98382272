// The Python module jdm_fast._C. Importing it runs the operator registrations of the other bindings; its
// functions say how it was built and what it would do. Tensors go through torch.ops, not through pybind11.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include "instance_norm_plan.h"
#include "kernels/cpu/dispatch.h"

namespace {

#if defined(__clang__)
constexpr char kCompiler[] = "clang " __clang_version__;
#else
constexpr char kCompiler[] = "g++ " __VERSION__;
#endif

pybind11::dict build_config() {
  pybind11::dict config;
#ifdef JDM_FAST_WITH_CUDA
  config["cuda"] = true;
  config["cuda_architectures"] = JDM_FAST_CUDA_ARCHITECTURES;
#else
  config["cuda"] = false;
  config["cuda_architectures"] = "";
#endif
  config["compiler"] = kCompiler;
  config["torch_version"] = TORCH_VERSION;
  config["cpu_capabilities"] = jdm_fast::supported_cpu_capabilities();
  config["cpu_capability"] = jdm_fast::cpu_capability_name(jdm_fast::cpu_capability());
  return config;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of jdm_fast, registered as torch.ops.jdm_fast.*";
  m.def("build_config", &build_config,
        "How this module was built and what it runs on: cuda, cuda_architectures, compiler, torch_version, "
        "cpu_capabilities "
        "(instruction sets this machine can run), cpu_capability (the one in use; JDM_FAST_CPU_CAPABILITY chooses).");
  m.def("instance_norm_plan", &jdm_fast::instance_norm_plan, "See jdm_fast.ops.plan.", pybind11::arg("batch"),
        pybind11::arg("channels"), pybind11::arg("pixels"), pybind11::arg("channels_last"), pybind11::arg("dtype"),
        pybind11::arg("backward"), pybind11::arg("multiprocessors"), pybind11::arg("capability"),
        pybind11::arg("cache_bytes"));
}
