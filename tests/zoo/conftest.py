"""What tests of linear-Gaussian special cases share."""

import pyro
import pyro.distributions as dist
import pytest
import torch


@pytest.fixture
def linear_gaussian():
    """Function of (location, z_dims, scale): the dense marginal of x and a guide that draws from the exact posterior.

    ``location`` maps the list of latents, bottom first, to the mean of x and must be affine; z ~ N(0, I).
    """

    def build(location, z_dims, scale):
        def flat(z):
            return location(list(z.split(z_dims, -1)))

        zero = torch.zeros(sum(z_dims), dtype=torch.float64)
        loadings, bias = torch.autograd.functional.jacobian(flat, zero), flat(zero).detach()
        # affine indeed, so that the Jacobian at zero says all
        z = torch.randn(5, sum(z_dims), dtype=torch.float64)
        torch.testing.assert_close(flat(z).detach(), bias + z @ loadings.T, rtol=0, atol=1e-10)
        noise = scale**2 * torch.eye(len(bias), dtype=torch.float64)
        marginal = dist.MultivariateNormal(bias, loadings @ loadings.T + noise)
        covariance = (torch.eye(sum(z_dims), dtype=torch.float64) + loadings.T @ loadings / scale**2).inverse()

        def guide(x):
            mean = (x - bias) @ loadings @ covariance / scale**2
            with pyro.plate("data", len(x), dim=-1):
                q = dist.MultivariateNormal(mean, covariance)
                z = pyro.sample("joint", q, infer={"is_auxiliary": True})
                for i, part in reversed(list(enumerate(z.split(z_dims, -1), 1))):
                    pyro.sample(f"z{i}", dist.Delta(part, event_dim=1))

        return marginal, guide, loadings

    return build
