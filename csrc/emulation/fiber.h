// A stack to run on, and the switch to it and back: the only machine-dependent part of the emulation. x86-64 switches
// in a few instructions; elsewhere (or with -DJDM_EMULATION_UCONTEXT) the C library's ucontext does it.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) && !defined(JDM_EMULATION_UCONTEXT)
#define JDM_EMULATION_UCONTEXT
#endif
#if defined(JDM_EMULATION_UCONTEXT)
#include <ucontext.h>
#endif

namespace cuda_emulation::detail {

#if !defined(JDM_EMULATION_UCONTEXT)

// Saves the callee-saved registers and the stack pointer, then continues on the other stack.
extern "C" void jdm_emulation_switch(void** save_stack_pointer, void* load_stack_pointer);
asm(R"(
  .text
  .globl jdm_emulation_switch
  .hidden jdm_emulation_switch
  .type jdm_emulation_switch, @function
jdm_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size jdm_emulation_switch, .-jdm_emulation_switch
)");

#endif

class Fiber {
 public:
  using Entry = void (*)();  // must end by switching back for good

  Fiber() {
    // Below the stack lies a page that cannot be touched: an overflow stops the program instead of corrupting a
    // neighbour.
    memory_ = static_cast<char*>(
        mmap(nullptr, kGuardBytes + kStackBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory_ == MAP_FAILED || mprotect(stack(), kStackBytes, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  }
  ~Fiber() { munmap(memory_, kGuardBytes + kStackBytes); }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next resume() begin `entry`, whatever the fiber was doing before.
  void start(Entry entry) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack(), kStackBytes);  // frames of an earlier run never returned
    fake_stack_ = nullptr;
#endif
#if defined(JDM_EMULATION_UCONTEXT)
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack();
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#else
    void** top = reinterpret_cast<void**>(stack() + kStackBytes - 16);
    *--top = nullptr;  // return address of `entry`, and the stack alignment a function expects
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;  // the callee-saved registers
    stack_pointer_ = top;
#endif
  }

  // Scheduler: runs the fiber until it calls suspend().
  void resume() {
#if defined(__SANITIZE_ADDRESS__)
    void* scheduler_fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, stack(), kStackBytes);
#endif
#if defined(JDM_EMULATION_UCONTEXT)
    swapcontext(&scheduler_context(), &context_);
#else
    jdm_emulation_switch(&scheduler_stack_pointer(), stack_pointer_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
  }

  // Fiber: first thing in `entry`.
  static void entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack().bottom, &scheduler_stack().bytes);
#endif
  }

  // Fiber: back to the scheduler. `last` if it will not be resumed.
  void suspend(bool last) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, scheduler_stack().bottom, scheduler_stack().bytes);
#else
    (void)last;
#endif
#if defined(JDM_EMULATION_UCONTEXT)
    swapcontext(&context_, &scheduler_context());
#else
    jdm_emulation_switch(&stack_pointer_, scheduler_stack_pointer());
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack_, &scheduler_stack().bottom, &scheduler_stack().bytes);
#endif
  }

 private:
  static constexpr size_t kStackBytes = 128 << 10;  // AddressSanitizer's frames are large
  static constexpr size_t kGuardBytes = 4 << 10;

  char* stack() { return memory_ + kGuardBytes; }

  char* memory_;
#if defined(JDM_EMULATION_UCONTEXT)
  ucontext_t context_;
  static ucontext_t& scheduler_context() {
    static ucontext_t context;
    return context;
  }
#else
  void* stack_pointer_ = nullptr;
  static void*& scheduler_stack_pointer() {
    static void* stack_pointer;
    return stack_pointer;
  }
#endif
#if defined(__SANITIZE_ADDRESS__)
  struct Range {
    const void* bottom;
    size_t bytes;
  };
  void* fake_stack_ = nullptr;
  static Range& scheduler_stack() {
    static Range range;
    return range;
  }
#endif
};

}  // namespace cuda_emulation::detail
