import subprocess
import sys


def test_timm_imports_whatever_torchvision_is_there() -> None:
    """In a process of its own: an import cannot be tried twice in one."""
    script = ("import milscope.encoders, timm, torch\n"
              "print(timm.create_model('resnet18', num_classes=2)(torch.rand(2, 3, 32, 32)).shape)")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "torch.Size([2, 2])", done.stderr
